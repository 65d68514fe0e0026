"""The result on disk: a scene folder, written, read, exported and looked at."""
