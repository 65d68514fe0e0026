"""The Scal3R network on one device; nothing here knows about other processes."""
