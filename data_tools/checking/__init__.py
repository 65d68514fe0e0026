"""What `scal3r data check` measures, which readings of the data it tries, and how it judges."""
