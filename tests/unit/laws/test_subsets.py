import numpy as np
import pandas as pd

from vqscale.laws import fit_study, read_fits, write_fits
from vqscale.laws.fitting.run_filter import lower_envelope

SIZES = np.geomspace(5e4, 5e7, 6)


def sweep(arch="transformer_vq", codebook=64.0, context=512, tokens=1e6, shift=0.0, **columns):
    loss = 1.2 + shift + 30 * SIZES**-0.3
    return pd.DataFrame(
        {
            "name": [f"{arch}-{codebook}-{context}-{index}" for index in range(len(SIZES))],
            "status": "finished",
            "arch": arch,
            "codebook_size": codebook,
            "context": context,
            "tokens": tokens,
            "parameters_non_embedding": SIZES,
            "parameters": SIZES * 1.5,
            "flops": SIZES * 6 * tokens,
            "loss": loss,
            "bpb": loss / np.log(2),
        }
        | columns
    )


def test_every_architecture_codebook_context_and_token_budget_gets_its_own_fit():
    table = pd.concat(
        [sweep(), sweep(codebook=128.0, shift=-0.1), sweep(context=1024), sweep(tokens=2e6)], ignore_index=True
    )
    table = pd.concat([table, sweep(arch="transformer", codebook=np.nan, shift=-0.2)], ignore_index=True)
    fits = fit_study(table, ["power_n"], bootstrap=0).fits
    assert len(fits) == 5
    assert {fit.n_runs for fit in fits} == {6}
    labels = {fit.label for fit in fits}
    assert "transformer_vq, S 128, T 512, D 1 M" in labels
    assert "transformer, T 512, D 1 M" in labels


def test_cosines_and_decays_of_wsd_are_never_in_one_fit():
    cosine, wsd = {"schedule": "cosine", "decay": np.nan}, {"schedule": "wsd", "decay": 0.2}
    parts = [sweep(**cosine), sweep(**wsd, shift=0.05), sweep(**wsd | {"decay": 0.1}, shift=0.1)]
    fits = fit_study(pd.concat(parts, ignore_index=True), ["power_n"], bootstrap=0).fits
    assert [fit.n_runs for fit in fits] == [6, 6, 6]
    assert {(fit.where["schedule"], fit.where["decay"]) for fit in fits} == {
        ("cosine", None), ("wsd", 0.2), ("wsd", 0.1)
    }  # fmt: skip


def test_token_budgets_of_one_wsd_run_are_resampled_together():
    budgets = [1e6, 2e6, 4e6, 8e6]
    shared = {"schedule": "wsd", "decay": 0.2, "shared_prefix": [f"prefix{index}" for index in range(len(SIZES))]}
    table = pd.concat([sweep(tokens=d, shift=2000 * d**-0.6, **shared) for d in budgets], ignore_index=True)
    noise = np.repeat(np.random.default_rng(0).normal(0, 0.01, (1, len(SIZES))), 4, axis=0).ravel()
    table["bpb"] *= np.exp(noise)
    (together,) = fit_study(table, ["chinchilla"], bootstrap=200).fits
    (apart,) = fit_study(table.drop(columns="shared_prefix"), ["chinchilla"], bootstrap=200).fits
    widths = [fit.intervals["alpha"].high90 - fit.intervals["alpha"].low90 for fit in (together, apart)]
    assert widths[0] > widths[1]


def test_bits_per_byte_are_fitted_where_every_finished_run_has_them():
    table = sweep()
    assert fit_study(table, ["power_n"], bootstrap=0).fits[0].unit == "bits per byte"
    table.loc[0, "bpb"] = np.nan
    assert fit_study(table, ["power_n"], bootstrap=0).fits[0].unit == "nats per token"
    assert fit_study(table, ["power_n"], bootstrap=0, metric="loss").fits[0].metric == "loss"


def test_n_convention_is_a_setting_of_the_analysis():
    (fit,) = fit_study(sweep(), ["power_n"], bootstrap=0, n_column="parameters").fits
    assert fit.axes == ["parameters"]
    assert fit.points[0].x == [SIZES[0] * 1.5]


def test_group_replaces_the_laws_own_split():
    table = pd.concat([sweep(), sweep(context=1024)], ignore_index=True)
    (fit,) = fit_study(table, ["power_n"], bootstrap=0, group=["arch"]).fits
    assert fit.n_runs == 12
    assert fit.where == {"arch": "transformer_vq"}


def test_learning_rate_sweep_at_a_point_is_represented_by_its_best():
    good, bad = sweep(lr=3e-3), sweep(lr=1e-2, shift=0.4)
    bad["name"] = bad["name"] + "-hot"
    fits = fit_study(pd.concat([bad, good], ignore_index=True), ["power_n"], bootstrap=0)
    assert fits.fits[0].n_runs == 6
    assert sorted(entry.name for entry in fits.excluded) == sorted(bad["name"])
    assert "lr 0.003" in fits.excluded[0].reason


def test_seeds_are_pooled():
    first, second = sweep(seed=0), sweep(seed=1, shift=0.001)
    (fit,) = fit_study(pd.concat([first, second], ignore_index=True), ["power_n"], bootstrap=0).fits
    assert fit.n_runs == 12


def test_codebook_law_leaves_quadratic_baselines_alone():
    codebooks = np.array([32.0, 64, 128, 256, 512, 1024])
    table = sweep().assign(codebook_size=codebooks, parameters_non_embedding=1e6, bpb=1.4 + 2 * codebooks**-0.5)
    table["preset"] = "nano"
    baseline = sweep(arch="transformer", codebook=np.nan, preset="nano")
    fits = fit_study(pd.concat([table, baseline], ignore_index=True), ["codebook"], bootstrap=0)
    assert [fit.n_runs for fit in fits.fits] == [6]
    assert fits.excluded == []
    assert fits.refusals == []


def test_frontier_drops_runs_that_a_cheaper_one_matches():
    runs = pd.DataFrame({"flops": [1.0, 2, 2, 3, 4], "loss": [3.0, 2.5, 2.7, 2.5, 2.0]})
    assert lower_envelope(runs, "flops", "loss").index.tolist() == [0, 1, 4]


def test_fits_written_are_read_back_and_listed_as_csv(tmp_path):
    fits = fit_study(sweep(), ["power_n", "chinchilla"], bootstrap=5)
    write_fits(fits, str(tmp_path))
    assert read_fits(str(tmp_path)) == fits
    rows = pd.read_csv(tmp_path / "fits.csv")
    assert rows["constant"].tolist() == ["E", "A", "alpha"]
    assert (rows["low95"] <= rows["value"] * (1 + 1e-6)).all()
    assert fits.refusals[0].law == "chinchilla"
