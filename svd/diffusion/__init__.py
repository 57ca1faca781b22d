"""The mathematics of diffusion, in noise levels sigma: x = x0 + sigma * n with unit Gaussian n.

Four independent parts: scaling of the network (`preconditioning`), noise levels (`schedules`), mixing of conditional
and unconditional predictions (`guidance`), and ODE solvers (`samplers`); `denoiser` combines the first with a network.
No network is imported here, only called.

Scalars (noise levels, coefficients, guidance scales) are float64 on the host, so that every device computes with the
same numbers; they become float32 where they meet tensors.
"""
