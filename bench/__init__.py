"""Measurements, side by side with PyTorch in one run: `python -m bench`, or `make bench`."""
