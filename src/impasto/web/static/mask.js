// A mask painted over the picture that it belongs to: what is painted is white and will be drawn anew, the rest stays.
import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api.js";
import { html, say } from "./ui.js";

const PAINT = "#e0341c"; // what is seen while painting, on light pictures and dark ones; the mask itself is white
const KEPT = 8; // strokes that can be taken back

export function MaskPainter({ under, onDone, onClose }) {
  const dialog = useRef();
  const canvas = useRef();
  const strokes = useRef([]);
  const [size, setSize] = useState(null); // [width, height] of the picture
  const [brush, setBrush] = useState(8); // percent of the width
  const [erases, setErases] = useState(false);
  const [busy, setBusy] = useState(false);
  useEffect(() => dialog.current.showModal(), []);
  const pen = () => canvas.current.getContext("2d");
  const keep = () => {
    strokes.current.push(pen().getImageData(0, 0, ...size));
    if (strokes.current.length > KEPT) strokes.current.shift();
  };
  const place = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * size[0], ((event.clientY - box.top) / box.height) * size[1]];
  };
  const begin = (event) => {
    event.preventDefault();
    canvas.current.setPointerCapture(event.pointerId);
    keep();
    const context = pen();
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: (size[0] * brush) / 100, strokeStyle: PAINT });
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.beginPath();
    context.moveTo(...place(event));
    draw(event);
  };
  const draw = (event) => {
    if (!canvas.current.hasPointerCapture(event.pointerId)) return;
    pen().lineTo(...place(event));
    pen().stroke();
  };
  const all = (white) => {
    keep();
    pen().globalCompositeOperation = "source-over";
    pen().clearRect(0, 0, ...size);
    if (white) (pen().fillStyle = PAINT), pen().fillRect(0, 0, ...size);
  };
  const undo = () => strokes.current.length && pen().putImageData(strokes.current.pop(), 0, 0);
  const done = async () => {
    setBusy(true);
    try {
      onDone(await api.upload(await masked(canvas.current)));
      onClose();
    } catch (error) {
      say(error.message);
      setBusy(false);
    }
  };
  return html`<dialog ref=${dialog} class="painter" aria-labelledby="painter-title" onClose=${onClose}>
    <h2 id="painter-title">Paint what is to be drawn anew</h2>
    <div class="painting">
      <img src=${under} alt="The picture that goes in" onLoad=${(event) => setSize([event.target.naturalWidth, event.target.naturalHeight])} />
      ${size && html`<canvas ref=${canvas} width=${size[0]} height=${size[1]} aria-label="The mask" onPointerDown=${begin} onPointerMove=${draw}></canvas>`}
    </div>
    <div class="row">
      <label class="row">Brush <input type="range" min="1" max="30" value=${brush} onInput=${(event) => setBrush(event.target.valueAsNumber)} /></label>
      <button type="button" aria-pressed=${erases ? "true" : "false"} onClick=${() => setErases(!erases)}>Eraser</button>
      <button type="button" onClick=${undo}>Undo</button>
      <button type="button" onClick=${() => all(false)}>Clear</button>
      <button type="button" onClick=${() => all(true)}>Everything</button>
    </div>
    <div class="actions">
      <button type="button" class="primary" disabled=${!size || busy} onClick=${done}>Use this mask</button>
      <button type="button" onClick=${onClose}>Close</button>
    </div>
  </dialog>`;
}

/** The painted canvas as a PNG file: white where it was painted, black elsewhere, in the size of the picture. */
async function masked(painted) {
  const { width, height } = painted;
  const flat = Object.assign(document.createElement("canvas"), { width, height });
  const pen = flat.getContext("2d");
  pen.drawImage(painted, 0, 0);
  for (const [where, colour] of [["source-in", "#fff"], ["destination-over", "#000"]]) {
    Object.assign(pen, { globalCompositeOperation: where, fillStyle: colour });
    pen.fillRect(0, 0, width, height);
  }
  const blob = await new Promise((resolve) => flat.toBlob(resolve, "image/png"));
  return new File([blob], "mask.png", { type: "image/png" });
}
