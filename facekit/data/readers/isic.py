"""ISIC: dermatoscopic photos in a folder for each of nine diagnoses."""

from __future__ import annotations

from facekit.data.readers.classes import ClassFolderReader, in_folder_of
from facekit.data.readers.table import Row

ISIC_CLASSES = (
    "actinic keratosis",
    "basal cell carcinoma",
    "dermatofibroma",
    "melanoma",
    "nevus",
    "pigmented benign keratosis",
    "seborrheic keratosis",
    "squamous cell carcinoma",
    "vascular lesion",
)


class ISICReader(ClassFolderReader):
    """Dermatoscopic photos of the ISIC archive in nine folders, one for each diagnosis (zip, tar or folder).

    Every photo shows a lesion; where it is, the folders do not say. The same photo can lie under two diagnoses, which
    its ISIC number gives away: it is rejected under both ("several classes").
    """

    kind = "isic"
    size = 128
    column = "diagnosis"
    every = {"lesion": "yes"}
    classes = ISIC_CLASSES
    name_is_identity = True
    set_about = {
        "name": "ISIC archive, nine diagnoses",
        "licence": "each image of the archive has its own; ask the archive by the image's number",
        "home": "https://www.isic-archive.com",
        "labels": "the diagnosis under which the archive lists the image",
        "datasheet": "datasets/ISIC.md",
    }


ROW = Row("isic", ISICReader, name_shows=in_folder_of(ISIC_CLASSES))
