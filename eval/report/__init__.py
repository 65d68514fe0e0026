"""The last stage: results.json and the files beside it as tables and pictures."""
