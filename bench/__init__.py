"""Benchmarks: `python -m bench sample | load`. Each compares with diffusers' LDMTextToImagePipeline on the
same random weights in one run where diffusers is installed (pip install ".[bench]"), and measures this
project alone otherwise.
"""
