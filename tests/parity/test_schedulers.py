"""Our samplers on discrete schedules against diffusers' schedulers, with a random network in place of a trained one.

diffusers keeps its tables in float32. Two of its choices differ from ours, and are left out or given to it here: where
`timesteps // n` is not the distance between timesteps that are visited, its DDIM steps to levels that the next step
does not begin at; and its DPM-Solver++ has n + 1 timesteps in mind when it spaces n of them.
"""

import numpy as np
import pytest
from comparison import assert_close

from svd.config import ScheduleConfig
from svd.diffusion.guidance import guided
from svd.diffusion.preconditioning import DISCRETE_PRECONDITIONINGS, PRECONDITIONINGS
from svd.diffusion.samplers import consistency, ddim, dpmpp_2m, dpmpp_2m_sde, euler, unipc
from svd.diffusion.schedules import consistency_levels, discrete_sigmas, karras, spaced, visited_levels

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-5
SHAPE = (2, 3, 4, 4, 4)
RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(SHAPE)
MIX = RNG.standard_normal((64, 64)) / 8
PREDICTIONS = {"vp_eps": "epsilon", "vp_v": "v_prediction"}
both_predictions = pytest.mark.parametrize("prediction", PREDICTIONS)


def network(z: np.ndarray, timestep: float) -> np.ndarray:
    """[b t c h w], scaled to unit variance -> the same shape."""
    h = np.tanh(z.reshape(*SHAPE[:2], -1) @ MIX + np.cos(timestep / 300))
    return h.reshape(SHAPE) + 0.5 * z


def ours(sampler, schedule: ScheduleConfig, prediction: str, levels: np.ndarray, **options) -> np.ndarray:
    """Sampled data on the scale of a variance-preserving model."""
    record = DISCRETE_PRECONDITIONINGS[prediction](discrete_sigmas(schedule))

    def denoise(x, sigma):
        c_skip, c_out, c_in, c_noise = record.coefficients(sigma)
        return c_skip * x + c_out * network(c_in * x, c_noise)

    x = sampler(denoise, NOISE * np.sqrt(1 + levels[0] ** 2), levels, **options)
    return x / np.sqrt(1 + levels[-1] ** 2)


def theirs(scheduler, steps, sigmas=None, **options) -> np.ndarray:
    """The samples of a scheduler of diffusers, from the same noise: steps are a number or timesteps."""
    scheduler.set_timesteps(**({"timesteps": steps} if isinstance(steps, list) else {"num_inference_steps": steps}))
    first = 1.0 if sigmas is None else np.sqrt(1 + sigmas[int(scheduler.timesteps[0])] ** 2)
    z = torch.from_numpy(NOISE * first)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(z, timestep)
        predicted = torch.from_numpy(network(scaled.numpy(), float(timestep)))
        z = scheduler.step(predicted, timestep, z, return_dict=False, **options)[0]
    return z.numpy()


def scheduler_of(kind, schedule: ScheduleConfig, prediction: str, **options):
    return kind(
        beta_schedule=schedule.betas,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        prediction_type=PREDICTIONS[prediction],
        **options,
    )


@both_predictions
@pytest.mark.parametrize("betas", ["scaled_linear", "linear"])
@pytest.mark.parametrize(
    "steps, spacing, offset",
    [(7, "leading", 1), (30, "leading", 0), (10, "trailing", 0)],
    ids=["leading", "leading without offset", "trailing"],
)
def test_ddim(prediction, betas, steps, spacing, offset):
    schedule = ScheduleConfig(betas)
    options = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": spacing, "steps_offset": offset}
    scheduler = scheduler_of(diffusers.DDIMScheduler, schedule, prediction, **options)
    levels = visited_levels(discrete_sigmas(schedule), steps, spacing, offset, to_zero=False)
    assert_close(ours(ddim, schedule, prediction, levels), theirs(scheduler, steps), TOLERANCE)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta):
    """The same noise for both, drawn step after step."""
    schedule = ScheduleConfig()
    drawn = RNG.standard_normal((8, *SHAPE))
    options = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    scheduler = scheduler_of(diffusers.DDIMScheduler, schedule, "vp_eps", **options)
    levels = visited_levels(discrete_sigmas(schedule), 8, "leading", 1, to_zero=False)

    given, taken = iter(drawn), iter(drawn)
    result = ours(ddim, schedule, "vp_eps", levels, eta=eta, noise=lambda shape: next(given))
    scheduler.set_timesteps(8)
    z = torch.from_numpy(NOISE)
    for timestep in scheduler.timesteps:
        predicted = torch.from_numpy(network(z.numpy(), float(timestep)))
        noise = torch.from_numpy(next(taken))
        z = scheduler.step(predicted, timestep, z, eta=eta, variance_noise=noise).prev_sample
    assert_close(result, z.numpy(), TOLERANCE)


@both_predictions
@pytest.mark.parametrize(
    "steps, spacing, offset",
    [(7, "leading", 1), (10, "trailing", 0), (28, "linspace", 0)],
    ids=["leading", "trailing", "linspace"],
)
def test_euler(prediction, steps, spacing, offset):
    """Of linspace: 28 steps, for which diffusers' timesteps are whole numbers."""
    schedule = ScheduleConfig()
    options = {"timestep_spacing": spacing, "steps_offset": offset}
    scheduler = scheduler_of(diffusers.EulerDiscreteScheduler, schedule, prediction, **options)
    sigmas = discrete_sigmas(schedule)
    levels = visited_levels(sigmas, steps, spacing, offset)
    assert_close(ours(euler, schedule, prediction, levels), theirs(scheduler, steps, sigmas), TOLERANCE)


def test_euler_from_pure_noise():
    """A zero terminal SNR; DDIM's first step is then diffusers' up to 2^-12, since that takes 0 for our 2^-24."""
    schedule = ScheduleConfig(zero_terminal_snr=True)
    sigmas, options = discrete_sigmas(schedule), {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    scheduler = scheduler_of(diffusers.EulerDiscreteScheduler, schedule, "vp_v", **options)
    result = ours(euler, schedule, "vp_v", visited_levels(sigmas, 10, "trailing"))
    assert_close(result, theirs(scheduler, 10, sigmas), TOLERANCE)

    options |= {"clip_sample": False, "set_alpha_to_one": False}
    scheduler = scheduler_of(diffusers.DDIMScheduler, schedule, "vp_v", **options)
    result = ours(ddim, schedule, "vp_v", visited_levels(sigmas, 10, "trailing", to_zero=False))
    assert_close(result, theirs(scheduler, 10), 2.0**-11)


@both_predictions
def test_dpmpp_2m(prediction):
    schedule = ScheduleConfig()
    scheduler = scheduler_of(diffusers.DPMSolverMultistepScheduler, schedule, prediction)
    timesteps = spaced(9, 1000, "leading", 1).tolist()
    levels = visited_levels(discrete_sigmas(schedule), 9, "leading", 1)
    assert_close(ours(dpmpp_2m, schedule, prediction, levels), theirs(scheduler, timesteps), TOLERANCE)


# --- noise levels of Stable Video Diffusion; diffusers' solvers compute on x / sqrt(1 + sigma^2) ---


def denoised(x: np.ndarray, sigma: float) -> np.ndarray:
    """SVD's v-scaling of the random network."""
    return (x - sigma * np.sqrt(1 + sigma**2) * network(x / np.sqrt(1 + sigma**2), 300 * np.log(sigma))) / (
        1 + sigma**2
    )


def theirs_at(scheduler, sigmas: np.ndarray, drawn: list[np.ndarray] | None = None) -> np.ndarray:
    """A solver of diffusers over these levels, from NOISE, given what is denoised."""
    scheduler.set_timesteps(max(len(sigmas) - 1, 1))
    scheduler.sigmas = torch.from_numpy(sigmas)
    scheduler.timesteps = torch.arange(len(sigmas) - 1, 0, -1)
    z, drawn = torch.from_numpy(NOISE), iter(drawn or [])
    for sigma, timestep in zip(sigmas, scheduler.timesteps):
        x0 = torch.from_numpy(denoised(z.numpy() * np.sqrt(1 + sigma**2), sigma))
        options = {}
        if scheduler.config.get("algorithm_type") == "sde-dpmsolver++":
            options["variance_noise"] = torch.from_numpy(next(drawn))
        z = scheduler.step(x0, timestep, z, return_dict=False, **options)[0]
    return z.numpy() * np.sqrt(1 + sigmas[-1] ** 2)


FROM = NOISE * np.sqrt(1 + 700.0**2)


def test_dpmpp_2m_at_the_levels_of_svd():
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="sample", final_sigmas_type="zero")
    assert_close(dpmpp_2m(denoised, FROM, karras(9)), theirs_at(scheduler, karras(9)), TOLERANCE)


def test_dpmpp_2m_sde():
    """The same noise for both; theirs draws for the last step, too, where it has no effect."""
    drawn = list(RNG.standard_normal((9, *SHAPE)))
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="sample", algorithm_type="sde-dpmsolver++", final_sigmas_type="zero"
    )
    given = iter(drawn)
    result = dpmpp_2m_sde(denoised, FROM, karras(9), noise=lambda shape: next(given))
    assert_close(result, theirs_at(scheduler, karras(9), drawn), TOLERANCE)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order):
    """Without a step to 0, at which theirs ends at a lower order; with it, of the order that the table has."""
    options = {"prediction_type": "sample", "solver_order": order, "lower_order_final": False}
    scheduler = diffusers.UniPCMultistepScheduler(**options)
    sigmas = karras(9)[:-1]
    assert_close(unipc(denoised, FROM, sigmas, order=order), theirs_at(scheduler, sigmas), TOLERANCE)
    if order == 2:
        scheduler = diffusers.UniPCMultistepScheduler(prediction_type="sample", final_sigmas_type="zero")
        assert_close(unipc(denoised, FROM, karras(9)), theirs_at(scheduler, karras(9)), TOLERANCE)


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8])
def test_consistency(steps):
    """The formulas of AnimateLCM-SVD's scheduler, in its order: levels as float32, the network's own output and scale,
    c_skip and c_out for data of deviation 1, and noise of the next level."""
    drawn = RNG.standard_normal((steps, *SHAPE))
    ramp = torch.arange(steps) * (40 // steps) / 39
    sigmas = torch.cat([(700 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7, torch.zeros(1)])
    z = torch.from_numpy(NOISE) * (700.0**2 + 1) ** 0.5
    for i, sigma in enumerate(sigmas[:-1]):
        predicted = torch.from_numpy(network((z / (sigma**2 + 1) ** 0.5).numpy(), float(0.25 * torch.log(sigma))))
        x0 = -sigma / (sigma**2 + 1) ** 0.5 * predicted + z / (sigma**2 + 1)
        z = x0 + torch.from_numpy(drawn[i]) * sigmas[i + 1]

    def denoise(x, sigma):
        c_skip, c_out, c_in, c_noise = PRECONDITIONINGS["v_scaling"].coefficients(sigma)
        return c_skip * x + c_out * network(c_in * x, c_noise)

    given = iter(drawn)
    result = consistency(denoise, FROM, consistency_levels(steps), noise=lambda shape: next(given))
    assert_close(result, z.numpy(), TOLERANCE)


@both_predictions
def test_guidance_rescale(prediction):
    """diffusers rescales what the network predicts; ours works on what was denoised."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    record, sigma, x = DISCRETE_PRECONDITIONINGS[prediction](discrete_sigmas(ScheduleConfig())), 3.0, NOISE
    cond, uncond = RNG.standard_normal((2, *SHAPE))
    c_skip, c_out, *_ = record.coefficients(sigma)

    class Predicted(str):
        def stack(self, other):
            return self, other

    def bind(which):
        predicted = np.concatenate([uncond, cond]) if isinstance(which, tuple) else cond
        return lambda x, sigma: c_skip * x + c_out * predicted

    guide = guided(bind, Predicted("cond"), Predicted("uncond"), 7.5, rescale=0.7, c_skip=record.c_skip)
    cond, uncond = torch.from_numpy(cond), torch.from_numpy(uncond)
    expected = rescale_noise_cfg(uncond + 7.5 * (cond - uncond), cond, 0.7)
    assert_close((guide(x, sigma) - c_skip * x) / c_out, expected, TOLERANCE)
