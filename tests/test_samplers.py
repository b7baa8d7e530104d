"""Sampler steps and timesteps: against the original code's numbers, and against cases whose answer is
known in closed form: a point mass, whose noise prediction is exact, and Gaussian data, whose
probability-flow ODE can be solved."""
import math

import pytest
import torch

from helpers import assert_close
from ldm import DiffusionConfig, InputError, NoiseSchedule
from ldm.samplers import (
    DDIM,
    DDPM,
    DPMSolver,
    Prediction,
    ddim_step,
    ddpm_step,
    dpm_solver_step,
    make_sampler,
    randn,
    strided,
    trajectory,
)

ALPHAS = NoiseSchedule(DiffusionConfig()).alphas_cumprod.double().tolist()


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_timesteps_are_the_originals(compvis, steps):
    expected = compvis[1]
    pairs = strided(1000, steps)
    assert [t for t, _ in reversed(pairs)] == expected[f"ddim.timesteps{steps}"].tolist()
    for key, times in (("alphas", [t for t, _ in pairs]), ("alphas_prev", [t for _, t in pairs])):
        assert_close(torch.tensor([ALPHAS[t] for t in reversed(times)], dtype=torch.float32),
                     expected[f"ddim.{key}{steps}"], 1e-6)


def test_ddim_sigma_is_the_originals(compvis):
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    sigmas = [ddim_step(ALPHAS, zero, zero, t, t_prev, eta=1.0, noise=one)
              for t, t_prev in reversed(strided(1000, 10))]
    assert_close(torch.cat(sigmas).float(), compvis[1]["ddim.sigmas10.eta1"], 1e-5)


@pytest.mark.parametrize("steps, count", [(1, 1), (2, 2), (30, 31), (333, 333), (500, 500), (501, 999),
                                          (1000, 999)])
def test_strided_timesteps_stay_inside_the_schedule(steps, count):
    pairs = strided(1000, steps)
    assert len(pairs) == count
    assert all(0 <= t_prev < t < 1000 for t, t_prev in pairs)
    assert [t_prev for _, t_prev in pairs] == [t for t, _ in pairs[1:]] + [0]


def test_ddpm_timesteps_reach_the_clean_latent():
    assert DDPM().timesteps(1000, 1000) == [(t, t - 1) for t in reversed(range(1000))]
    assert DDPM().timesteps(1000, 4) == [(999, 749), (749, 499), (499, 249), (249, -1)]


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(0.7), DDPM(), DPMSolver()])
def test_point_mass_is_hit_exactly(sampler):
    """With the exact noise prediction for data at one point,
    every sampler ends on the point's own noisy version."""
    point = torch.tensor([[[[1.5, -0.3]]]], dtype=torch.float64)

    def denoise(z, t):
        return (z - math.sqrt(ALPHAS[t]) * point) / math.sqrt(1 - ALPHAS[t])

    generator = torch.Generator().manual_seed(0)
    z_T = torch.randn(1, 1, 1, 2, generator=generator, dtype=torch.float64)
    *_, (t, z) = trajectory(sampler, denoise, ALPHAS, z_T, 20,
                            lambda: torch.randn(1, 1, 1, 2, generator=generator))
    alpha = 1.0 if t < 0 else ALPHAS[t]
    assert (z - math.sqrt(alpha) * point).abs().max() <= 4 * math.sqrt(1 - alpha) + 1e-9


def gaussian_error(step, stride, std=0.5):
    """How far steps of one stride from t = 960 to 160 land from the solution of the probability-flow ODE for
    data N(0, std^2): there a latent keeps its quantile, z_t / sqrt(alpha std^2 + 1 - alpha)."""
    def deviation(t):
        return math.sqrt(ALPHAS[t] * std ** 2 + 1 - ALPHAS[t])

    z, carry = torch.full((1,), deviation(960), dtype=torch.float64), None
    for t in range(960, 160, -stride):
        eps_hat = math.sqrt(1 - ALPHAS[t]) / deviation(t) ** 2 * z
        z, carry = step(ALPHAS, z, eps_hat, t, t - stride, None, carry)
    return abs(z.item() / deviation(160) - 1)


def test_deterministic_samplers_solve_the_ode_at_their_order():
    """Half the stride: half the error of DDIM, a quarter of the error of DPM-Solver++(2M)."""
    ddim, solver = DDIM().step, DPMSolver().step
    assert 1.8 < gaussian_error(ddim, 20) / gaussian_error(ddim, 10) < 2.2
    assert 3.5 < gaussian_error(solver, 20) / gaussian_error(solver, 10) < 4.5
    assert gaussian_error(solver, 20) < gaussian_error(ddim, 10) < 0.02


def test_ddpm_draws_from_the_data():
    """1,000 ancestral steps on Gaussian data give its standard deviation."""
    std, count = 0.5, 20_000
    generator = torch.Generator().manual_seed(1)

    def draw():
        return torch.randn(count, 1, 1, 1, generator=generator)

    def denoise(z, t):
        return math.sqrt(1 - ALPHAS[t]) / (ALPHAS[t] * std ** 2 + 1 - ALPHAS[t]) * z

    *_, (_, z) = trajectory(DDPM(), denoise, ALPHAS, draw(), 1000, draw)
    assert abs(z.std().item() / std - 1) < 0.03       # 6 standard errors of the estimate are 0.03
    assert abs(z.mean().item()) < 0.02


def test_ddim_with_eta_1_is_ddpm():
    generator = torch.Generator().manual_seed(2)
    z, eps_hat, noise = (torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    for t, t_prev in [(999, 998), (500, 480), (21, 1)]:
        assert_close(ddim_step(ALPHAS, z, eps_hat, t, t_prev, eta=1.0, noise=noise),
                     ddpm_step(ALPHAS, z, eps_hat, t, t_prev, noise), 1e-12)


def test_first_solver_step_is_ddim():
    """DPM-Solver++ of first order is DDIM (Lu et al. 2022, section 4.1)."""
    z, eps_hat = torch.randn(2, 1, 4, 4, dtype=torch.float64,
                             generator=torch.Generator().manual_seed(3)).unbind()
    z_prev, prediction = dpm_solver_step(ALPHAS, z, eps_hat, 601, 501, None)
    assert_close(z_prev, ddim_step(ALPHAS, z, eps_hat, 601, 501), 1e-12)
    assert prediction.t == 601
    second, _ = dpm_solver_step(ALPHAS, z, eps_hat, 601, 501, Prediction(prediction.z0, 701))
    assert_close(second, z_prev, 1e-12)               # nothing to extrapolate if the prediction has not moved


def test_steps_leave_their_arguments_alone():
    z, eps_hat, noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(4)).unbind()
    copies = [x.clone() for x in (z, eps_hat, noise)]
    ddim_step(ALPHAS, z, eps_hat, 601, 501, 0.5, noise)
    ddpm_step(ALPHAS, z, eps_hat, 601, 501, noise)
    dpm_solver_step(ALPHAS, z, eps_hat, 601, 501, Prediction(noise, 701))
    assert all(torch.equal(x, copy) for x, copy in zip((z, eps_hat, noise), copies))


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = randn((3, 4, 2, 2), generators(5, 6, 7), "cpu")
    assert torch.equal(together[1:2], randn((1, 4, 2, 2), generators(6), "cpu"))
    assert not torch.equal(together[0], together[1])
    with pytest.raises(InputError, match="2 generators for 3 samples"):
        randn((3, 1), generators(1, 2), "cpu")


@pytest.mark.parametrize("name, eta, message", [("euler", 0, "unknown sampler 'euler'"),
                                                ("ddim", -1, "eta is -1"),
                                                ("ddim", float("nan"), "eta is nan"),
                                                ("dpm++", 0.5, "only the ddim sampler")])
def test_meaningless_samplers_are_refused(name, eta, message):
    with pytest.raises(InputError, match=message):
        make_sampler(name, eta)


@pytest.mark.parametrize("steps", [0, -5, 1001])
def test_meaningless_steps_are_refused(steps):
    with pytest.raises(InputError, match="a number from 1 to 1000"):
        next(trajectory(DDIM(), None, ALPHAS, torch.zeros(1), steps, None))
