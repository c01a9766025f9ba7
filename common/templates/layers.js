"use strict";
{
  // Each figure: a picture, label maps as grey PNGs (the grey value is a place in "segments"), and a slider.
  const opacity = 0.55;
  const setUp = (figure) => {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const colours = data.segments.map((segment) => segment.colour.match(/\w\w/g).map((part) => parseInt(part, 16)));
    const slider = figure.querySelector("input[type=range]");
    const [left, right] = figure.querySelectorAll("canvas");
    const picture = figure.querySelector("img");
    const maps = {};
    const read = (name) => maps[name] ??= new Promise((resolve) => {
      const source = new Image();
      source.onload = () => {
        const canvas = document.createElement("canvas");
        canvas.width = source.width;
        canvas.height = source.height;
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(source, 0, 0);
        const pixels = context.getImageData(0, 0, source.width, source.height).data;
        resolve({ width: source.width, height: source.height, labels: pixels.filter((_, place) => place % 4 === 0) });
      };
      source.src = data.layers[name];
    });
    const paint = async (canvas) => {
      const name = figure.querySelector(`select[data-side=${canvas.dataset.side}]`).value;
      if (!(name in data.layers)) {
        canvas.width = canvas.width; // the picture alone
        return;
      }
      const { width, height, labels } = await read(name);
      const shown = [...figure.querySelectorAll("[data-segment]")].map((box) => box.checked);
      canvas.width = width;
      canvas.height = height;
      const image = new ImageData(width, height);
      labels.forEach((label, place) => {
        if (!shown[label]) return;
        const column = place % width;
        const edge = (column + 1 < width && labels[place + 1] !== label) || (column > 0 && labels[place - 1] !== label)
          || (labels[place + width] ?? label) !== label || (labels[place - width] ?? label) !== label;
        image.data.set([...colours[label], edge ? 255 : 255 * opacity], 4 * place);
      });
      canvas.getContext("2d").putImageData(image, 0, 0);
    };
    const move = () => {
      const share = slider.value;
      left.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
      right.style.clipPath = `inset(0 0 0 ${share}%)`;
      figure.querySelector(".edge").style.left = `${share}%`;
    };
    const drag = (event) => {
      const box = picture.getBoundingClientRect();
      slider.value = 100 * (event.clientX - box.left) / box.width;
      move();
    };
    const stage = figure.querySelector(".stage");
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      drag(event);
    });
    stage.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
    stage.addEventListener("dragstart", (event) => event.preventDefault());
    slider.addEventListener("input", move);
    figure.addEventListener("change", async () => {
      await Promise.all([paint(left), paint(right)]);
      figure.dataset.painted = Number(figure.dataset.painted ?? 0) + 1;
    });
    move();
    figure.dispatchEvent(new Event("change"));
  };
  const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    near.unobserve(entry.target);
    setUp(entry.target);
  }), { rootMargin: "600px" });
  document.querySelectorAll("figure.layered").forEach((figure) => near.observe(figure));
}
