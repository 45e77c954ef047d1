"""Compare the libraries that a model was trained with to those that are installed."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from serving.errors import ContractError

# Libraries whose objects are part of models. MLflow may list every library of the training
# environment; a different version of a linter, for example, is harmless.
_IN_MODELS = {
    "catboost",
    "keras",
    "lightgbm",
    "numpy",
    "pandas",
    "prophet",
    "scikit-learn",
    "scipy",
    "spacy",
    "statsmodels",
    "tensorflow",
    "torch",
    "xgboost",
}


@dataclass(frozen=True)
class Library:
    """One line of a model's requirements."""

    name: str
    wanted: str | None
    """The version that the model was trained with; None if it is not pinned."""
    installed: str | None

    @property
    def differs(self) -> bool:
        """Whether the major version differs: a pickle may fail to load, or answer wrongly."""
        try:
            return (
                self.wanted is not None
                and self.installed is not None
                and self.name in _IN_MODELS
                and Version(self.wanted).major != Version(self.installed).major
            )
        except InvalidVersion:
            return False

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        wanted = f"{self.name} {self.wanted}" if self.wanted else self.name
        if self.installed is None and self.name in _IN_MODELS:
            return f"trained with {wanted}, which is not installed"
        if self.differs:
            return f"trained with {wanted}, {self.installed} is installed"
        return None


def libraries_of(model_directory: Path) -> tuple[Library, ...]:
    """The libraries in the model's `requirements.txt`, with the versions installed here."""
    try:
        lines = (model_directory / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ()  # MLflow writes the file with every model, but does not require it
    libraries = []
    for line in lines:
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:
            continue  # an option of pip, a path, an address
        if requirement.marker is None or requirement.marker.evaluate():
            pins = [pin.version for pin in requirement.specifier if pin.operator == "=="]
            libraries.append(
                Library(requirement.name, next(iter(pins), None), installed(requirement.name))
            )
    return tuple(libraries)


def check_libraries(libraries: tuple[Library, ...]) -> None:
    """Raise `ContractError` naming the libraries whose major version differs."""
    problems = [str(library.problem) for library in libraries if library.differs]
    if problems:
        raise ContractError(
            f"{'; '.join(problems)}: install that major version, train again, or set "
            "serving.allow_other_versions (ALLOW_OTHER_VERSIONS) to load it anyway"
        )


def installed(distribution: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
