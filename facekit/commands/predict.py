"""`python -m facekit predict`: a trained model's answers for photos: a row a face, in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from facekit.answers.model import load
from facekit.answers.predict import Answers, write_answers
from facekit.errors import ConfigError


def predict(
    model: Path,
    photos: Path,
    out: Path = Path("answers.csv"),
    pictures: Path | None = None,
    faces: Literal["as_trained", "cropped", "fairface", "box"] = "as_trained",
    backbone: Literal["facenet", "mini"] | None = None,
    domain: str | None = None,
    device: str | None = None,
) -> int:
    """Writes what a model that `train` has left answers for photos: a row a face, in a CSV.

    Faces are found and cut as those were that the model learnt from, which it knows. A row has the file, the number of
    the face in it (the largest first), its box in pixels of the upright photo (which may reach beyond its border) and
    how sure the detector is that it is a face; of each task the answer, its probability, and the second best class with
    its own. A photo without a face, or one that cannot be read, has a row with the reason. Probabilities are calibrated
    on the model's validation photos: on photos of another kind they are often too sure.

    The same command goes on where a run was stopped, and ends in the same table. No crop and no embedding is kept.

    Args:
        model: Folder that `train --out` has made.
        photos: A photo, a folder or an archive with photos, or a packed set.
        out: The table; it may replace one that `predict` wrote.
        pictures: Folder for a picture of each photo, with boxes and answers.
        faces: How faces get out of the photos: as_trained, as the model's training photos were cut; cropped, each photo
            is a face that is cut so already; fairface, eyes, nose and mouth are brought to where FairFace's photos have
            them; box, as `pack --align` cuts.
        backbone: What embeds the photos for a model of embeddings; by default the network that made those that it
            learnt from.
        domain: Which of the sets that the model learnt from it shall answer for, if it learnt from several.
        device: Where to compute, by default as everywhere in facekit.

    Examples:
        python -m facekit predict run photos --out answers.csv
        python -m facekit predict run holiday.zip --out holiday.csv --pictures drawn
        python -m facekit predict domains skin --domain skin --faces cropped
    """
    loaded = load(model, device)
    if domain is not None:
        loaded = loaded.only(domain)
    elif loaded.sets:
        raise ConfigError(f"{model} answers for {', '.join(loaded.sets)}; choose one: --domain {loaded.sets[0]}.")
    answers = Answers(loaded, photos, faces, backbone)
    written = write_answers(answers, out, pictures)
    print(f"{out}: {written.faces:,} faces in {written.photos:,} photos")
    for reason, count in sorted(written.reasons.items()):
        print(f"  {count:,} without an answer: {reason}, first {written.first[reason]}")
    for task in loaded.tasks:
        if task.softmax and loaded.temperatures[task.name] is None:
            answers.notes.append(f"no temperature was fitted for {task.name}: its probabilities are often too sure")
        if cuts := loaded.thresholds.get(task.name):
            answers.notes.append(
                f"the model keeps thresholds of {task.name} by {cuts['groups']}; a photo does not say its group, so "
                "the answer is the class with the highest score (facekit.load(...).decided takes groups that you know)"
            )
    for note in answers.notes:
        print(f"  note: {note}")
    if pictures is not None:
        print(f"{pictures}: a picture of each photo that can be read")
    return 0
