"""Benchmarks: `python -m bench sample | load | attention`. The first two compare with diffusers'
LDMTextToImagePipeline on the same random weights in one run where diffusers is installed
(pip install ".[bench]"), and measure this project alone otherwise.
"""
