"""From a scene folder to the files of other programs, one format a file."""
