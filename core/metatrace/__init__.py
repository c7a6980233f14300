"""The figures of the Metatrace paper (Young, Wang and Taylor 2018)."""

from . import alphas, atari, drifts

FIGURES = {
  "fig1": alphas.figure("none"),
  "fig2": alphas.figure("scalar"),
  "fig3": alphas.figure("scalar_raw", beside="scalar"),
  "fig4": alphas.figure("sid", beside="scalar_raw"),
  "fig5": alphas.figure("nosid", beside="scalar"),
  "fig6": drifts.FIG6,
  "fig7": drifts.FIG7,
  "fig8": atari.FIG8,
  "fig9": atari.FIG9,
}
