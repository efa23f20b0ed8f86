"""The model that tells languages apart, loaded by the import: a confined process imports it before its limits hold."""

from importlib import import_module
from typing import Any

from flotilla.knowledge.languages import LANGUAGES

_langid: Any = import_module("py3langid.langid")
IDENTIFIER: Any = _langid.LanguageIdentifier.from_model_file(_langid.MODEL_FILE, norm_probs=True)
IDENTIFIER.set_languages(sorted(LANGUAGES))
