// A choice among texts: radio buttons in a named group, or a slider that says its text. Keys stay inside: arrows choose,
// Tab goes on. What is chosen is the number of the text, or null before the first choice.
function radio(model, choose) {
  const box = document.createElement("div");
  box.setAttribute("role", "radiogroup");
  const group = crypto.getRandomValues(new Uint32Array(2)).join("-"); // each control loads this file for itself
  const inputs = model.get("texts").map((text, number) => {
    const label = document.createElement("label");
    label.className = "facekit-radio";
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: group });
    input.addEventListener("change", () => choose(number));
    label.append(input, document.createTextNode(text));
    box.append(label);
    return input;
  });
  const show = () => inputs.forEach((input, number) => (input.checked = number === model.get("index")));
  return [box, box, show];
}

function slider(model, choose) {
  const texts = model.get("texts");
  const box = document.createElement("label");
  box.className = "facekit-slider";
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: 0, max: texts.length - 1, step: 1 });
  const said = document.createElement("output");
  const say = () => {
    said.textContent = texts[input.value];
    input.setAttribute("aria-valuetext", texts[input.value]);
  };
  input.addEventListener("input", say);
  input.addEventListener("change", () => choose(Number(input.value)));
  box.append(document.createTextNode(model.get("description")), input, said);
  const show = () => {
    input.value = model.get("index");
    say();
  };
  return [box, input, show];
}

function render({ model, el }) {
  const choose = (number) => {
    model.set("index", number);
    model.save_changes();
  };
  const [box, named, show] = (model.get("slider") ? slider : radio)(model, choose);
  named.setAttribute("aria-label", model.get("description"));
  el.append(box);
  show();
  model.on("change:index", show);
  return () => model.off("change:index", show);
}

export default { render };
