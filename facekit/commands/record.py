"""`python -m facekit record …`: measuring again what lessons show as recorded on real photos."""

from __future__ import annotations


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {
        "probe": "facekit.recording:record_probe",
        "stages": "facekit.recording:record_stages",
        "rates": "facekit.recording:record_rates",
        "ladder": "facekit.recording:record_ladder",
        "alignment": "facekit.recording_alignment:record_alignment",
        "sharing": "facekit.recording_sharing:record_sharing",
        "joint": "facekit.recording_sharing:record_joint",
        "last_stage": "facekit.recording_sharing:record_last_stage",
        "codings": "facekit.recording_codings:record_codings",
        "dial": "facekit.recording_dial:record_dial",
        "mini": "facekit.model_card:record_mini",
        "mini_portraits": "facekit.model_card:record_portraits",
        "card": "facekit.model_card:record_card",
        "reference": "facekit.reference:record_reference",
        "utkface": "facekit.reference:record_utkface",
        "domains": "facekit.recording_domains:record_domains",
        "domains_real": "facekit.recording_domains:record_domains_real",
        "show": "facekit.recording:show",
    }
