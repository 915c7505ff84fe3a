"""The training objective: predicted noise, and the variance beside it (docs/model.md 10).

Each clip gets a timestep t and noise e. Of x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e the network
predicts e, and with it how much variance a sampling step has (Nichol & Dhariwal, 2021). The loss of
a clip is mean((e - predicted e)^2) plus a variational term, which trains the variance alone: the
noise in it is detached. It is the KL divergence of the true step from the predicted one, at t = 0
the negative log-likelihood of x_0 in bins of 2/255, in bits per element and unscaled.

All terms are written in e - predicted e, from which x_0 - predicted x_0 and the distance of the two
means follow by factors. That is the same formula without its cancellations, so float32 is exact
enough everywhere, on devices that have no float64 too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..diffusion.betas import alphas_cumprod_of, linear_betas
from ..diffusion.posterior import Posterior
from ..errors import IncompatibleInputsError, InvalidInputError

BIN = 1 / 255  # half the width of a bin of the likelihood at t = 0
EDGE = 0.999  # values beyond belong to the first or the last bin
SMALLEST_SHARE = 1e-12
SNR_LIMIT = 5.0

Weighting = Literal["none", "min_snr"]
WEIGHTINGS = ("none", "min_snr")


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """(1000,) float32 factors by timestep, computed in float64."""

    signal: Tensor
    noise: Tensor
    clean_from_noise: Tensor
    mean_from_noise: Tensor
    log_lower: Tensor
    log_range: Tensor  # of the upper limit of the variance, beta, over the lower

    @classmethod
    def of(cls, betas: Tensor) -> Tables:
        """Return the tables for a schedule (1000,) float64."""
        alphas = alphas_cumprod_of(betas)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
        posterior = Posterior(alphas, before)
        clean_from_noise = (1 / alphas - 1).sqrt()
        clean_share = betas * before.sqrt() / (1 - alphas)
        values = (
            alphas.sqrt(),
            (1 - alphas).sqrt(),
            clean_from_noise,
            clean_share * clean_from_noise,
            posterior.log_variances,
            betas.log() - posterior.log_variances,
        )
        return cls(*(value.float() for value in values))

    def to(self, device: torch.device | str) -> Tables:
        """Return the tables on a device."""
        return Tables(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def _linear_tables() -> Tables:
    return Tables.of(linear_betas())


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Makes noisy latents and judges predictions.

    Args:
        weighting: "none" is the paper's: every timestep counts as its squared noise error. With
            "min_snr" the squared error of t counts sqrt(min(SNR, 5)) / SNR times, so that noisy
            steps, where place and motion are decided but the noise is easy to predict, count as
            much as clean ones (after Hang et al., 2023). The variational term is not weighted.
        variational_weight: how much the variational term counts, if the network predicts a
            variance; 1 is the paper's, 0 leaves the variance untrained.
    """

    weighting: Weighting = "none"
    variational_weight: float = 1.0
    tables: Tables = field(default_factory=_linear_tables, repr=False)

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise InvalidInputError(
                f"weighting is {self.weighting!r}, but it must be one of {', '.join(WEIGHTINGS)}."
            )

    def to(self, device: torch.device | str) -> Objective:
        """Return the objective with its tables on a device."""
        return replace(self, tables=self.tables.to(device))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t, shaped as `latents` (B, C, F, h, w)."""
        signal = spread(self.tables.signal, timesteps)
        return signal * latents + spread(self.tables.noise, timesteps) * noise

    def losses(
        self, prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Losses:
        """Return the loss of each clip.

        Args:
            prediction: (B, C or 2C, F, h, w) noise, then variance logits.
            latents: (B, C, F, h, w) clean.
            noise: the noise that was added.
            timesteps: (B,) int64, 0 .. 999.

        Raises:
            IncompatibleInputsError: if the prediction has neither C nor 2C channels.
        """
        channels = latents.shape[1]
        if prediction.shape[1] not in (channels, 2 * channels):
            raise IncompatibleInputsError(
                f"The model predicts {prediction.shape[1]} channels, but {channels} of noise, or "
                f"{2 * channels} with variance, are needed to train it."
            )
        prediction = prediction.float()
        error = noise - prediction[:, :channels]
        squared = mean_of_clip(error.square())
        variational = torch.zeros_like(squared)
        if self.variational_weight and prediction.shape[1] == 2 * channels:
            logits = prediction[:, channels:]
            variational = self.variational_term(error.detach(), logits, latents, timesteps)
        return Losses(
            squared=squared,
            variational=variational,
            total=self.weights(timesteps) * squared + self.variational_weight * variational,
        )

    def weights(self, timesteps: Tensor) -> Tensor:
        """Return (B,) how much the squared error counts."""
        if self.weighting == "none":
            return torch.ones(timesteps.shape, device=timesteps.device)
        ratio = (self.tables.signal / self.tables.noise)[timesteps].square()
        return ratio.clamp(max=SNR_LIMIT).sqrt() / ratio

    def variational_term(
        self, error: Tensor, logits: Tensor, latents: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Return (B,) bits per element of the variational bound's term of t.

        Args:
            error: e - predicted e, without gradient.
            logits: -1 takes the lower bound of the variance, 1 takes beta.
            latents: clean.
            timesteps: (B,).
        """
        tables = self.tables
        lower = spread(tables.log_lower, timesteps)
        share = (logits + 1) / 2
        above = share * spread(tables.log_range, timesteps)  # log variance over `lower`
        distance = spread(tables.mean_from_noise, timesteps) * error
        divergence = gaussian_divergence(above, distance, lower)
        is_last = (timesteps == 0).view(-1, *[1] * (latents.ndim - 1))
        # With an index of 0 for all, clips of other timesteps stay finite and get no gradient.
        centered = -tables.clean_from_noise[0] * error
        log_variance = tables.log_lower[0] + share * tables.log_range[0]
        likelihood = binned_likelihood(latents, centered, log_variance)
        terms = torch.where(is_last, -likelihood, divergence)
        return mean_of_clip(terms) / math.log(2)


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """(B,) each: mean squared noise error, variational term, and what is minimised."""

    squared: Tensor
    variational: Tensor
    total: Tensor


def spread(table: Tensor, timesteps: Tensor) -> Tensor:
    """Return the entries of a table as (B, 1, 1, 1, 1)."""
    return table[timesteps].view(-1, 1, 1, 1, 1)


def mean_of_clip(values: Tensor) -> Tensor:
    """Return the mean of each clip: (B, ...) -> (B,)."""
    return values.flatten(1).mean(dim=1)


def gaussian_divergence(above: Tensor, distance: Tensor, lower: Tensor) -> Tensor:
    """Return KL(N(m, exp(lower)) || N(m + distance, exp(lower + above))), elementwise."""
    spread_part = above + torch.expm1(-above)
    return 0.5 * (spread_part + distance.square() * torch.exp(-lower - above))


def binned_likelihood(values: Tensor, centered: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log of the probability of each value's bin of width 2/255.

    Args:
        values: to be encoded; those beyond +-0.999 take all that lies beyond them.
        centered: values minus the mean of the Gaussian.
        log_variance: of the Gaussian.
    """
    inverse = torch.exp(-0.5 * log_variance)
    upper = approximate_cdf(inverse * (centered + BIN))
    lower = approximate_cdf(inverse * (centered - BIN))
    inner = torch.log((upper - lower).clamp(min=SMALLEST_SHARE))
    first = torch.log(upper.clamp(min=SMALLEST_SHARE))
    last = torch.log((1 - lower).clamp(min=SMALLEST_SHARE))
    return torch.where(values < -EDGE, first, torch.where(values > EDGE, last, inner))


def approximate_cdf(values: Tensor) -> Tensor:
    """Return the standard normal distribution function, by the tanh approximation of GELU."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))
