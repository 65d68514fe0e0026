"""`scal3r plan`: what a recipe's steps look like on a world of any size, and what they cost; nothing is started."""
