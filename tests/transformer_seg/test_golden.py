"""Every golden case of WNet, Segmenter and DINO, through the importer where there are weights."""

from tests.golden import Case, parametrize
from tests.transformer_seg import checks_dino, checks_segmenter, checks_wnet

CHECKS = {**checks_wnet.CHECKS, **checks_segmenter.CHECKS, **checks_dino.CHECKS}


@parametrize("transformer_seg", families=CHECKS)
def test_golden(case: Case) -> None:
    CHECKS[case.family](case)
