"""From an ordered set of images to a scene folder."""
