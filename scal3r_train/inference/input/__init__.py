"""The frames of one video and what the user knows of them: sizes, times, cameras, masks."""
