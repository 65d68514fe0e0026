"""From bytes of files to pixels and metres."""
