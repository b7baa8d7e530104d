"""Benchmarks; `python -m bench --help` lists them. `sample` and `load` compare with diffusers'
LDMTextToImagePipeline on the same random weights in one run where diffusers is installed
(pip install ".[bench]"), and measure this project alone otherwise. `train` compares with the loop of
diffusers' example where it is asked to, by --vs diffusers.
"""
