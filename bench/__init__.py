"""Benchmarks; `python -m bench --help` lists them. `sample`, `load` and `train` compare with diffusers'
LDMTextToImagePipeline on the same random weights in one run where diffusers is installed
(pip install ".[bench]"), and measure this project alone otherwise.
"""
