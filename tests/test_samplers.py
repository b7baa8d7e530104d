"""Sampler steps and timesteps: against the original code's numbers, and against cases whose answer is
known in closed form: a point mass, whose noise prediction is exact, and Gaussian data, whose
probability-flow ODE can be solved."""
import itertools
import math

import numpy as np
import pytest
import torch

from helpers import assert_close
from ldm import DiffusionConfig, InputError, NoiseSchedule
from ldm.samplers import (
    ddim,
    ddim_step,
    ddim_timesteps,
    ddpm,
    ddpm_step,
    ddpm_timesteps,
    dpm_solver,
    dpm_solver_step,
    make_sampler,
    predict_z0,
    randn,
)

ALPHAS = NoiseSchedule(DiffusionConfig()).alphas_cumprod.double().tolist()


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_timesteps_are_the_originals(compvis, steps):
    expected = compvis[1]
    pairs = ddim_timesteps(1000, steps)
    assert [t for t, _ in reversed(pairs)] == expected[f"ddim.timesteps{steps}"].tolist()
    for key, times in (("alphas", [t for t, _ in pairs]), ("alphas_prev", [t for _, t in pairs])):
        assert_close(torch.tensor([ALPHAS[t] for t in reversed(times)], dtype=torch.float32),
                     expected[f"ddim.{key}{steps}"], 1e-6)


def test_ddim_sigma_is_the_originals(compvis):
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    sigmas = [ddim_step(ALPHAS, zero, zero, t, t_prev, eta=1.0, noise=one)
              for t, t_prev in reversed(ddim_timesteps(1000, 10))]
    assert_close(torch.cat(sigmas).float(), compvis[1]["ddim.sigmas10.eta1"], 1e-5)


@pytest.mark.parametrize("steps, count", [(1, 1), (2, 2), (30, 31), (50, 50), (333, 333), (400, 500),
                                          (500, 500), (501, 999), (1000, 999)])
def test_ddim_timesteps_stay_inside_the_schedule(steps, count):
    pairs = ddim_timesteps(1000, steps)
    assert len(pairs) == count == math.ceil(999 / (1000 // steps))
    assert all(0 <= t_prev < t < 1000 for t, t_prev in pairs)
    assert [t_prev for _, t_prev in pairs] == [t for t, _ in pairs[1:]] + [0]


@pytest.mark.parametrize("name, eta, is_random", [("ddim", 0.0, False), ("dpm++", 0.0, False),
                                                  ("ddim", 0.5, True), ("ddpm", 0.0, True)])
def test_deterministic_samplers_leave_the_generator_alone(name, eta, is_random):
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    list(make_sampler(name, eta)(lambda z, t: z, ALPHAS, torch.ones(1, 1, 1, 2), 2, generator))
    assert torch.equal(generator.get_state(), before) is not is_random


def test_ddpm_timesteps_reach_the_clean_latent():
    assert ddpm_timesteps(1000, 1000) == [(t, t - 1) for t in reversed(range(1000))]
    assert ddpm_timesteps(1000, 4) == [(999, 749), (749, 499), (499, 249), (249, -1)]


@pytest.mark.parametrize("name, eta", [("ddim", 0), ("ddim", 0.7), ("ddim", 1), ("ddpm", 0), ("dpm++", 0)])
def test_point_mass_is_hit_exactly(name, eta):
    """With the exact noise prediction for data at one point,
    every sampler ends on the point's own noisy version."""
    point = torch.tensor([[[[1.5, -0.3]]]], dtype=torch.float64)

    def denoise(z, t):
        return (z - math.sqrt(ALPHAS[t]) * point) / math.sqrt(1 - ALPHAS[t])

    generator = torch.Generator().manual_seed(0)
    z_T = torch.randn(1, 1, 1, 2, generator=generator, dtype=torch.float64)
    *_, (t, z) = make_sampler(name, eta)(denoise, ALPHAS, z_T, 20, generator)
    alpha = 1.0 if t < 0 else ALPHAS[t]
    assert (z - math.sqrt(alpha) * point).abs().max() <= 4 * math.sqrt(1 - alpha) + 1e-9


def gaussian(std):
    """For data N(0, std^2): the standard deviation of z_t, and the exact noise prediction."""
    def deviation(t):
        return math.sqrt(ALPHAS[t] * std ** 2 + 1 - ALPHAS[t])

    return deviation, lambda z, t: math.sqrt(1 - ALPHAS[t]) / deviation(t) ** 2 * z


def gaussian_error(step, stride):
    """How far steps of one stride from t = 960 to 160 land from the solution of the probability-flow ODE for
    Gaussian data: there a latent keeps its quantile, z_t / deviation(t)."""
    deviation, denoise = gaussian(0.5)
    z, last = torch.full((1,), deviation(960), dtype=torch.float64), None
    for t in range(960, 160, -stride):
        z, last = step(z, denoise(z, t), t, t - stride, last)
    return abs(z.item() / deviation(160) - 1)


def test_deterministic_samplers_solve_the_ode_at_their_order():
    """Half the stride: half the error of DDIM, a quarter of the error of DPM-Solver++(2M)."""
    def ddim(z, eps_hat, t, t_prev, last):
        return ddim_step(ALPHAS, z, eps_hat, t, t_prev), None

    def solver(z, eps_hat, t, t_prev, last):
        z, z0 = dpm_solver_step(ALPHAS, z, eps_hat, t, t_prev, last)
        return z, (z0, t)

    assert 1.8 < gaussian_error(ddim, 20) / gaussian_error(ddim, 10) < 2.2
    assert 3.5 < gaussian_error(solver, 20) / gaussian_error(solver, 10) < 4.5
    assert gaussian_error(solver, 20) < gaussian_error(ddim, 10) < 0.02


def test_ddpm_draws_from_the_data():
    """1,000 ancestral steps on Gaussian data give its standard deviation."""
    std, generator = 0.5, torch.Generator().manual_seed(1)
    z_T = torch.randn(20_000, 1, 1, 1, generator=generator)
    *_, (_, z) = ddpm(gaussian(std)[1], ALPHAS, z_T, 1000, generator)
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
    z_prev, z0 = dpm_solver_step(ALPHAS, z, eps_hat, 601, 501)
    assert_close(z_prev, ddim_step(ALPHAS, z, eps_hat, 601, 501), 1e-12)
    assert torch.equal(z0, predict_z0(ALPHAS, z, eps_hat, 601))
    second, _ = dpm_solver_step(ALPHAS, z, eps_hat, 601, 501, (z0, 701))
    assert_close(second, z_prev, 1e-12)               # nothing to extrapolate if the prediction has not moved


def test_last_solver_step_may_reach_the_clean_latent():
    """The half log-SNR is infinite there: whatever came before, the step is DDIM's; no step begins there."""
    z, eps_hat, last_z0 = torch.randn(3, 1, 4, 4, dtype=torch.float64,
                                      generator=torch.Generator().manual_seed(3)).unbind()
    for last in (None, (last_z0, 201)):
        z_prev, z0 = dpm_solver_step(ALPHAS, z, eps_hat, 1, -1, last)
        assert_close(z_prev, ddim_step(ALPHAS, z, eps_hat, 1, -1), 1e-12)
        assert torch.equal(z0, z_prev)
    with pytest.raises(InputError, match="`t` is -1, but there is no step from the clean latent"):
        dpm_solver_step(ALPHAS, z, eps_hat, -1, 1)


def test_second_solver_step_with_unequal_strides():
    """900 -> 700 -> 650. A prediction that is linear in the half log-SNR is extrapolated to the middle of the
    step, whatever the strides: the update is then algorithm 2's with D = z0 at lambda_t + h / 2, in numpy."""
    def lambda_of(t):
        return 0.5 * np.log(ALPHAS[t] / (1 - ALPHAS[t]))

    t_last, t, t_prev = 900, 700, 650
    z = torch.tensor([0.3], dtype=torch.float64)
    z0, last_z0 = (torch.tensor([2 + 3 * lambda_of(time)]) for time in (t, t_last))
    eps_hat = (z - math.sqrt(ALPHAS[t]) * z0) / math.sqrt(1 - ALPHAS[t])
    middle = 2 + 3 * (lambda_of(t) + lambda_of(t_prev)) / 2
    h = lambda_of(t_prev) - lambda_of(t)
    expected = (np.sqrt((1 - ALPHAS[t_prev]) / (1 - ALPHAS[t])) * 0.3
                - np.sqrt(ALPHAS[t_prev]) * (np.exp(-h) - 1) * middle)
    z_prev, _ = dpm_solver_step(ALPHAS, z, eps_hat, t, t_prev, (last_z0, t_last))
    assert z_prev.item() == pytest.approx(expected, rel=1e-12)


def test_ddim_inversion_and_back():
    """DDIM's step upwards in t is its inverse where the noise prediction is the same: an editor's own loop
    over the pure steps goes from a clean latent to noise and back."""
    deviation, denoise = gaussian(0.5)
    times = range(-1, 1000)
    z = clean = torch.tensor([0.8, -0.1], dtype=torch.float64)
    for t, t_next in itertools.pairwise(times):
        z = ddim_step(ALPHAS, z, denoise(z, max(t, 0)), t, t_next)
    assert_close(z / deviation(times[-1]), clean / 0.5, 0.02)
    for t, t_prev in itertools.pairwise(reversed(times)):
        z = ddim_step(ALPHAS, z, denoise(z, max(t, 0)), t, t_prev)
    assert_close(z, clean, 0.01)
    there = ddim_step(ALPHAS, clean, clean, 300, 400)
    assert_close(ddim_step(ALPHAS, there, clean, 400, 300), clean, 1e-12)


def test_steps_leave_their_arguments_alone():
    z, eps_hat, noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(4)).unbind()
    copies = [x.clone() for x in (z, eps_hat, noise)]
    ddim_step(ALPHAS, z, eps_hat, 601, 501, 0.5, noise)
    ddpm_step(ALPHAS, z, eps_hat, 601, 501, noise)
    dpm_solver_step(ALPHAS, z, eps_hat, 601, 501, (noise, 701))
    assert all(torch.equal(x, copy) for x, copy in zip((z, eps_hat, noise), copies, strict=True))


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = randn((3, 4, 2, 2), generators(5, 6, 7), "cpu")
    assert torch.equal(together[1:2], randn((1, 4, 2, 2), generators(6), "cpu"))
    assert not torch.equal(together[0], together[1])
    with pytest.raises(InputError, match="`generator` is a list of 2 for 3 samples"):
        randn((3, 1), generators(1, 2), "cpu")


@pytest.mark.parametrize("name, eta, message", [("euler", 0, "`sampler` is 'euler'. Use ddim"),
                                                ("ddim", -1, "`eta` is -1"),
                                                ("ddim", 1.01, "`eta` is 1.01"),
                                                ("ddim", float("nan"), "`eta` is nan"),
                                                ("dpm++", 0.5, "only the ddim sampler")])
def test_meaningless_samplers_are_refused(name, eta, message):
    with pytest.raises(InputError, match=message):
        make_sampler(name, eta)


@pytest.mark.parametrize("eta, t, t_prev", [(1.5, 601, 501), (-0.1, 601, 501), (float("nan"), 601, 501),
                                            (0.5, 501, 601)])
def test_steps_whose_noise_has_no_meaning_are_refused(eta, t, t_prev):
    z = torch.zeros(1)
    with pytest.raises(InputError, match=f"`eta` is {eta} in a step from t = {t} to {t_prev}"):
        ddim_step(ALPHAS, z, z, t, t_prev, eta, z)


def test_a_random_step_needs_its_noise():
    with pytest.raises(InputError, match="`eta` is 0.5, but no noise is given. Give `noise`, or use eta 0"):
        ddim_step(ALPHAS, torch.zeros(1), torch.zeros(1), 601, 501, 0.5)


@pytest.mark.parametrize("sampler", [ddim, ddpm, dpm_solver])
@pytest.mark.parametrize("steps", [0, -5, 1001])
def test_meaningless_steps_are_refused(sampler, steps):
    with pytest.raises(InputError, match="`steps` is .* Use 1 to 1000"):
        next(sampler(None, ALPHAS, torch.zeros(1), steps))


def test_samplers_by_name():
    assert make_sampler("ddpm") is ddpm and make_sampler("dpm++") is dpm_solver
    assert make_sampler("ddim", 0.5).func is ddim and make_sampler("ddim", 0.5).keywords == {"eta": 0.5}
