"""The mathematics of diffusion, in noise levels sigma: x = x0 + sigma * n with unit Gaussian n.

Four small things that know nothing of each other: how the network is scaled (`preconditioning`), which noise
levels are visited (`schedules`), how two predictions are mixed (`guidance`), and how the ODE is solved
(`samplers`); `denoiser` joins the first to a network. No network is imported here, only called.

Scalars (noise levels, coefficients, guidance scales) are float64 on the host, so that every device computes
with the same numbers; they become float32 where they meet tensors.
"""
