// JupyterLab shows the PNG of an output as an <img> without alt, although the notebook has it in the output's metadata.
// This renderer takes its place and sets it. JupyterLab loads it as one module of its own; there is nothing to build.
(() => {
  let lumino;

  const rendererFactory = {
    safe: true,
    mimeTypes: ["image/png"],
    createRenderer({ mimeType }) {
      class Picture extends lumino.Widget {
        renderModel(model) {
          const about = model.metadata[mimeType] ?? {};
          const image = document.createElement("img");
          image.alt = about.alt ?? "";
          image.src = `data:${mimeType};base64,${model.data[mimeType]}`;
          if (typeof about.width === "number") image.width = about.width;
          if (typeof about.height === "number") image.height = about.height;
          image.classList.toggle("jp-mod-unconfined", about.unconfined === true);
          for (const theme of ["light", "dark"]) {
            const needed = model.metadata.needs_background === theme;
            image.classList.toggle(`jp-needs-${theme}-background`, needed);
          }
          this.node.dataset.mimeType = mimeType;
          this.node.replaceChildren(image);
          return Promise.resolve();
        }
      }
      const picture = new Picture();
      picture.addClass("jp-RenderedImage");
      return picture;
    },
  };

  const extension = { id: "facekit-pictures:factory", rendererFactory, rank: 90, dataType: "string" };
  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB["facekit-pictures"] = {
    async init(shared) {
      const [version] = Object.values(shared["@lumino/widgets"]);
      lumino = (await version.get())();
    },
    async get() {
      return () => ({ __esModule: true, default: extension });
    },
  };
})();
