"""Benchmarks; `python -m bench --help` lists them. If diffusers is installed (pip install ".[bench]"),
`sample` and `load` compare with its LDMTextToImagePipeline on the same random weights in one run; otherwise
they measure this project alone. With --vs diffusers, `train` compares with the loop of diffusers' example.
"""
