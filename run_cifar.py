#!/usr/bin/env python
"""Trains classifiers of pictures: `python run_cifar.py --help`. Installed, it is `lstsd-cifar`."""

from lstsd_hf.images.command import run

if __name__ == "__main__":
    run()
