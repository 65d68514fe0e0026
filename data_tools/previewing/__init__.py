"""The picture that `scal3r data preview` draws, part by part."""
