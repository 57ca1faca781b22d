"""The layers' operators for CPU in float32: kernels in C++ (src/), for what MindSpore's own are slow at there.

They are compiled on first use (`library`); without a C++ compiler, the composed operators do the same.
"""
