(() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const plots = [...document.querySelectorAll("[data-plot]")];
  const config = { responsive: true, displaylogo: false, typesetMath: false, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d"] };

  const inks = () => {
    const style = getComputedStyle(document.documentElement);
    const ink = (name) => style.getPropertyValue(name).trim();
    const axes = {};
    for (const axis of ["xaxis", "yaxis"]) {
      axes[`${axis}.gridcolor`] = ink("--grid");
      axes[`${axis}.linecolor`] = ink("--grid");
    }
    return { ...axes, "font.color": ink("--soft"), "font.family": style.fontFamily,
      "hoverlabel.bgcolor": ink("--panel"), "hoverlabel.bordercolor": ink("--grid"), "hoverlabel.font.color": ink("--ink"),
      "modebar.color": ink("--soft"), "modebar.activecolor": ink("--ink"), "modebar.bgcolor": "rgba(0,0,0,0)" };
  };

  // To who cannot see it a figure is one image with a sentence, and its buttons beside it.
  const name = (plot) => {
    const [image, ...others] = plot.querySelectorAll(".main-svg");
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", plot.dataset.summary);
    others.forEach((svg) => svg.setAttribute("aria-hidden", "true"));
  };

  const draw = async () => {
    for (const plot of plots) {
      const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
      await Plotly.newPlot(plot, data, layout, config);
      await Plotly.relayout(plot, inks());
      name(plot);
      plot.dataset.drawn = "";
    }
  };

  const ink = () => Promise.all(plots.map((plot) => Plotly.relayout(plot, inks())));
  dark.addEventListener("change", ink);

  // Paper is light and narrow, and nobody can open a fold on it.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((fold) => { fold.open = true; });
    document.documentElement.classList.add("paper");
    plots.forEach((plot) => Plotly.relayout(plot, { ...inks(), width: plot.closest(".wide, .one") ? 660 : 325 }));
  });
  addEventListener("afterprint", () => {
    folded.forEach((fold) => { fold.open = false; });
    document.documentElement.classList.remove("paper");
    plots.forEach((plot) => Plotly.relayout(plot, { ...inks(), width: null, autosize: true }));
  });
  draw();
})();
