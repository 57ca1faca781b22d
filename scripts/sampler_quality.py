"""How far few steps of each sampler are from many, and what guidance in an interval of noise levels saves and changes.

    python scripts/sampler_quality.py              # under a minute; writes to docs/

The data are a mixture of Gaussians in 64 dimensions, whose denoiser E[x0 | x, sigma] is known, so that every error is
the sampler's. Noise levels are those of Stable Video Diffusion. Writes samplers.png, samplers.csv and
guidance_interval.csv, and prints the tables in Markdown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from svd.diffusion.guidance import guided
from svd.diffusion.samplers import SAMPLERS, STOCHASTIC
from svd.diffusion.schedules import karras
from svd.files import atomic_write, write_text

COMPARED = [name for name in SAMPLERS if name != "consistency"]
"""Those for any denoiser."""
SOLVERS = [name for name in COMPARED if name not in STOCHASTIC]
"""Of the ODE, whose solution they can be compared with."""
CLASSES, COMPONENTS, DIMENSION = 8, 4, 64
STEPS = (5, 8, 10, 15, 20, 25, 30, 40, 50)
LEAK = 0.3
"""The weight that the conditional branch gives to data of any class, as does a network that learned the condition
imperfectly. Guidance makes up for that; to a perfect conditional branch it can only do harm."""
GUIDED_STEPS = 25
SCALES, SHOWN_SCALE = (1.5, 2.5, 4.0), 2.5
"""Of guidance, and the one whose change is told: the largest of the published SVD."""
EVERYWHERE = (0.0, math.inf)
INTERVALS = (EVERYWHERE, (1, math.inf), (10, math.inf), (0, 10), (1, 20), (1, 10), (1, 5), (1, 3), (0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    docs = Path(__file__).resolve().parents[1] / "docs"
    parser.add_argument("--out", type=Path, default=docs, help="folder to write to (default: docs)")
    parser.add_argument("--samples", type=int, default=4096, help=f"a multiple of {CLASSES}, from {2 * CLASSES} up "
        "(default: 4096)")  # fmt: skip
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="of the samplers (default: 5 to 50)")
    parser.add_argument("--reference_steps", type=int, default=200, help="of Heun's solver, which the samplers are "
        "compared with (default: 200)")  # fmt: skip
    options = parser.parse_args()
    if options.samples % CLASSES or options.samples < 2 * CLASSES:
        parser.error(f"--samples must be a multiple of {CLASSES} and at least {2 * CLASSES}, got {options.samples}")
    mixture = random_mixture(np.random.default_rng(0))
    errors = sampler_errors(mixture, options.samples, options.steps, options.reference_steps)
    print(errors_in_markdown(errors), distances_in_markdown(errors), sep="\n\n", end="\n\n", flush=True)
    guidance = interval_quality(mixture, options.samples)
    print(guidance_in_markdown(guidance))
    write_text(options.out / "samplers.csv", errors.to_csv(index=False, float_format="%.5g"))
    write_text(options.out / "guidance_interval.csv", guidance.to_csv(index=False, float_format="%.5g"))
    plot(errors, guidance, options.out / "samplers.png")


# --- the data ---


@dataclass(frozen=True)
class Weights:
    """What the denoiser is told: for each sample, the logarithms of the components' weights, [b k]."""

    log: np.ndarray

    def stack(self, other: Weights) -> Weights:
        return Weights(np.concatenate([self.log, other.log]))


@dataclass(frozen=True)
class Mixture:
    """Gaussians of equal weight; component k is of class k // COMPONENTS.

    Their covariances are diagonal. Samplers treat all directions alike, so that a rotation would change nothing.
    """

    means: np.ndarray  # [k d]
    deviations: np.ndarray  # [k d]

    def denoise(self, x: np.ndarray, sigma: float, weights: Weights) -> np.ndarray:
        """E[x0 | x0 + sigma * noise = x], for x [b 1 d 1 1], in float64: the components' means, weighted by how likely
        each is to have given x."""
        flat = x.reshape(len(x), -1)
        variances = self.deviations**2 + sigma**2
        # log N(x; mean, variance) with its square multiplied out: products of matrices, no array [b k d]
        logits = weights.log + flat @ (self.means / variances).T - 0.5 * flat**2 @ (1 / variances).T
        logits = logits - 0.5 * (self.means**2 / variances + np.log(variances)).sum(1)
        posterior = np.exp(logits - logits.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        x0 = posterior @ (self.means * sigma**2 / variances) + flat * (posterior @ (self.deviations**2 / variances))
        return x0.reshape(x.shape)

    def draw(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One sample of each label's class, [b d]."""
        k = labels * COMPONENTS + generator.integers(0, COMPONENTS, len(labels))
        return self.means[k] + self.deviations[k] * generator.standard_normal((len(labels), DIMENSION))

    def weights(self, labels: np.ndarray, leak: float) -> Weights:
        """The class's components alike, but for the weight `leak`, which goes to all classes alike."""
        own = np.arange(CLASSES * COMPONENTS) // COMPONENTS == labels[:, None]
        with np.errstate(divide="ignore"):  # a weight of 0
            return Weights(np.log((1 - leak) * own / COMPONENTS + leak / own.shape[1]))


def random_mixture(generator: np.random.Generator) -> Mixture:
    """A third of the variance is between the components, the rest within; in all it is 1, as of latents."""
    classes = generator.standard_normal((CLASSES, 1, DIMENSION))
    means = (classes + generator.standard_normal((CLASSES, COMPONENTS, DIMENSION))).reshape(-1, DIMENSION)
    means -= means.mean(0)
    # Details are finer than the whole: deviations from 0.03 to 1 times the largest, alike on a logarithmic scale.
    deviations = 5 * 0.03 ** generator.random(means.shape)
    norm = math.sqrt(np.mean(means**2 + deviations**2))
    return Mixture(means / norm, deviations / norm)


def noise(samples: int, sigma_max: float) -> np.ndarray:
    """Where the samplers start, [b 1 d 1 1]: videos of one frame."""
    unit = np.random.default_rng(1).standard_normal((samples, 1, DIMENSION, 1, 1))
    return unit * math.sqrt(1 + sigma_max**2)


# --- steps against error ---


def sampler_errors(mixture: Mixture, samples: int, steps: list[int], reference_steps: int) -> pd.DataFrame:
    """Distances to the reference: sampler, steps, calls of the network, RMS over all samples, median of the samples';
    and the energy distance of the samples to true ones, which samplers that add noise have, too.

    The reference is Heun's, for all: 200 of Euler's steps come no nearer to the solution than 30 of Heun's. Its own row
    compares it with twice its steps, and has the distance of other true samples.
    """
    everything = Weights(np.zeros((1, CLASSES * COMPONENTS)))
    labels, generator = np.arange(samples) % CLASSES, np.random.default_rng(3)
    true, others = mixture.draw(labels, generator), mixture.draw(labels, generator)

    def run(sampler: str, steps: int) -> tuple[np.ndarray, int]:
        calls = 0

        def denoise(x, sigma):
            nonlocal calls
            calls += 1
            return mixture.denoise(x, sigma, everything)

        sigmas = karras(steps)
        options = {"noise": np.random.default_rng(4).standard_normal} if sampler in STOCHASTIC else {}
        return SAMPLERS[sampler](denoise, noise(samples, sigmas[0]), sigmas, **options), calls

    def row(sampler: str, steps: int, x: np.ndarray, calls: int, reference: np.ndarray) -> dict:
        squares = np.mean((x - reference).reshape(samples, -1) ** 2, axis=1)
        errors = {"rms": math.sqrt(squares.mean()), "median": math.sqrt(np.median(squares))}
        if sampler in STOCHASTIC:  # there is no path to be off
            errors = dict.fromkeys(errors, math.nan)
        drawn = others if sampler == "reference" else x.reshape(samples, -1)
        return {"sampler": sampler, "steps": steps, "calls": calls, **errors, "distance": energy_distance(drawn, true)}

    reference, calls = run("heun", reference_steps)
    rows = [row("reference", reference_steps, reference, calls, run("heun", 2 * reference_steps)[0])]
    rows += [row(sampler, n, *run(sampler, n), reference) for sampler in COMPARED for n in steps]
    return pd.DataFrame(rows)


# --- guidance in an interval ---


def interval_quality(mixture: Mixture, samples: int) -> pd.DataFrame:
    """Of Euler's samples, by interval: guided steps, work saved, change, and distance to true samples of the class.

    Work is counted in samples that the denoiser was given, change is the RMS difference to guidance everywhere at
    SHOWN_SCALE, and there is a distance for every scale: an interval must not look good only because less guidance is.
    The rows without an interval are samples without guidance and, instead of a sampler's, other true samples.
    """
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(CLASSES), samples // CLASSES)
    true, others = mixture.draw(labels, generator), mixture.draw(labels, generator)
    cond, uncond = mixture.weights(labels, LEAK), mixture.weights(labels, leak=1.0)
    sigmas = karras(GUIDED_STEPS)
    start = noise(samples, sigmas[0])

    def run(scale: float, interval: tuple[float, float]) -> tuple[np.ndarray, float]:
        work = 0

        def denoise(x, sigma, weights):
            nonlocal work
            work += len(x)
            return mixture.denoise(x, sigma, weights)

        guide = guided(lambda weights: partial(denoise, weights=weights), cond, uncond, scale, interval)
        x = SAMPLERS["euler"](guide, start, sigmas)
        return x.reshape(samples, -1), work / samples

    def row(name: str, runs: dict[float, tuple[np.ndarray, float]]) -> dict:
        x, work = runs[SHOWN_SCALE]
        return {
            "guidance": name,
            "guided_steps": round(work - GUIDED_STEPS),
            "work_saved_percent": 100 * (1 - work / (2 * GUIDED_STEPS)),
            "change": math.sqrt(np.mean((x - everywhere) ** 2)),
        } | distances(*(runs[scale][0] for scale in SCALES))

    def distances(*samples_by_scale: np.ndarray) -> dict:
        return {f"distance_{s:g}": class_distance(x, true, labels) for s, x in zip(SCALES, samples_by_scale)}

    everywhere, _ = run(SHOWN_SCALE, EVERYWHERE)
    rows = [row(f"({low:g}, {high:g}]", {s: run(s, (low, high)) for s in SCALES}) for low, high in INTERVALS]
    rows.append(row("none", dict.fromkeys(SCALES, run(1.0, EVERYWHERE))))
    rows.append({"guidance": "true samples"} | distances(*[others] * len(SCALES)))
    return pd.DataFrame(rows)


def class_distance(x: np.ndarray, true: np.ndarray, labels: np.ndarray) -> float:
    """Energy distance of samples [b d] to true ones of their class, mean over the classes."""
    return float(np.mean([energy_distance(x[labels == label], true[labels == label]) for label in range(CLASSES)]))


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| for samples [n d] and [m d], without bias: about 0 for equal ones."""

    def distances(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        squares = (p**2).sum(1)[:, None] + (q**2).sum(1) - 2 * p @ q.T
        return np.sqrt(np.maximum(squares, 0))

    def within(p: np.ndarray) -> float:
        return distances(p, p)[~np.eye(len(p), dtype=bool)].mean()

    return float(2 * distances(a, b).mean() - within(a) - within(b))


# --- what is shown ---


def errors_in_markdown(errors: pd.DataFrame) -> str:
    """A row per number of steps: RMS and, in brackets, the median sample's error."""
    first = errors.iloc[0]
    line = f"reference: {first.steps} steps of Heun's, {first.rms:.1e} from {2 * first.steps} steps\n"
    return f"{line}\n{_by_steps(errors, SOLVERS, lambda row: f'{row.rms:.3f} ({row.median:.3f})')}"


def distances_in_markdown(errors: pd.DataFrame) -> str:
    """A row per number of steps: the energy distance to true samples."""
    return _by_steps(errors, COMPARED, lambda row: f"{round(row.distance, 3) + 0:.3f}")


def _by_steps(errors: pd.DataFrame, samplers: list[str], cell: Callable) -> str:
    lines = ["| steps | " + " | ".join(samplers) + " |", "|---" * (1 + len(samplers)) + "|"]
    for steps, rows in errors.iloc[1:].groupby("steps"):
        found = {row.sampler: row for row in rows.itertuples()}
        lines.append(f"| {steps} | " + " | ".join(cell(found[sampler]) for sampler in samplers) + " |")
    return "\n".join(lines)


def guidance_in_markdown(guidance: pd.DataFrame) -> str:
    """The table as it is, rounded."""
    head = ["guidance", "guided steps", "work saved", "change", *(f"distance, scale {s:g}" for s in SCALES)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for _, row in guidance.iterrows():
        cells = ["", "", ""]
        if not math.isnan(row.change):
            cells = [
                f"{row.guided_steps:.0f} of {GUIDED_STEPS}",
                f"{row.work_saved_percent:.0f} %",
                f"{row.change:.3f}",
            ]
        cells += [f"{row[f'distance_{s:g}']:.3f}" for s in SCALES]
        lines.append(f"| {row.guidance} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(errors: pd.DataFrame, guidance: pd.DataFrame, path: Path) -> None:
    """Error against steps and against calls, and distances by interval."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    figure = Figure(figsize=(17, 4.6), layout="constrained")
    by_steps, by_calls, by_interval = figure.subplots(1, 3, width_ratios=(5, 5, 7))
    for axes, key in ((by_steps, "steps"), (by_calls, "calls")):
        for number, sampler in enumerate(SOLVERS):
            rows = errors[errors.sampler == sampler]
            axes.loglog(rows[key], rows["rms"], "o-", color=f"C{number}", label=f"{sampler}, RMS")
            axes.loglog(rows[key], rows["median"], ".--", color=f"C{number}", label=f"{sampler}, median sample")
        ticks = sorted(set(errors[key].iloc[1:]))
        axes.set_xticks(ticks if key == "steps" else [5, 10, 20, 50, 100], labels=None)
        axes.get_xaxis().set_major_formatter("{x:.0f}")
        axes.get_xaxis().set_minor_formatter("")
        axes.grid(which="both", alpha=0.3)
        axes.set(xlabel="steps" if key == "steps" else "calls of the network", ylabel="distance to the reference")
    by_steps.legend(fontsize="small")
    rows = guidance.dropna()
    for scale, marker in zip(SCALES, "o^s"):
        by_interval.semilogy(rows.index, rows[f"distance_{scale:g}"], marker, label=f"guidance scale {scale:g}")
    names = [f"{row.guidance}\n{row.work_saved_percent:.0f} %" for row in rows.itertuples()]
    by_interval.set_xticks(rows.index, names, fontsize="small")
    by_interval.yaxis.set_major_formatter("{x:g}")
    by_interval.yaxis.set_minor_formatter("{x:g}")
    by_interval.legend(fontsize="small")
    by_interval.set(xlabel="interval of guidance, and the work that it saves", ylabel="energy distance to the class")
    by_interval.grid(which="both", alpha=0.3)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=110, format="png")


if __name__ == "__main__":
    main()
