"""Drives round the circuits of two free racing games: their worlds read, driven through and photographed."""
