"""What certify returns: the checks, what they found, and both as text and as plain data."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

DIFFERS = "differs from finite differences"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: in which check, with what (a gradient `dWx`, an output `h`, an argument), by how much."""

    check: str
    what: str
    error: float | None
    words: str
    cause: str = ""

    def __str__(self) -> str:
        error = "" if self.error is None else f" by {self.error:.1e}"
        return f"{self.what}: {self.words}{error}" + (f"; {self.cause}" if self.cause else "")


@dataclass
class Check:
    """One check of a certificate. passed: True, False, or None where it does not apply; error: the largest seen."""

    name: str
    passed: bool | None = True
    error: float | None = None
    words: str = ""


@dataclass
class Certificate:
    """The result of certify. bool(certificate) and .ok: no check failed. str(certificate): the report."""

    forward: str
    backward: str
    arguments: dict[str, str]
    outputs: list[str]
    gradients: list[str]
    checks: list[Check] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    uncertified: list[str] = field(default_factory=list)  # gradients of arguments that backward does not return

    @property
    def ok(self) -> bool:
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok

    @property
    def wrong(self) -> dict[str, float]:
        """The gradients that are wrong, and the largest error of each over all checks."""
        found: dict[str, float] = {}
        for finding in self.findings:
            if finding.what in self.gradients and finding.error is not None:
                found[finding.what] = max(finding.error, found.get(finding.what, 0.0))
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, for JSON; an error that is not finite is None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: plain(item) for name, item in value.items()}
            if isinstance(value, list):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return plain({"ok": self.ok, "wrong": self.wrong} | asdict(self))

    def __str__(self) -> str:
        arguments = ", ".join(f"{name} ({shape})" for name, shape in self.arguments.items())
        uncertified = f"; not certified: {', '.join(self.uncertified)}" if self.uncertified else ""
        lines = [
            f"{self.forward} and {self.backward}: {'right' if self.ok else 'wrong'}{uncertified}",
            f"arguments  {arguments}",
            f"results    {', '.join(self.outputs)}; gradients {', '.join(self.gradients) or 'none'}",
            "",
        ]
        width = max(len(check.name) for check in self.checks)
        for check in self.checks:
            state = {True: "ok", False: "WRONG", None: "-"}[check.passed]
            error = "" if check.error is None else f"{check.error:.1e}"
            lines.append(f"{check.name:{width}}  {state:5}  {error:7}  {check.words}".rstrip())
        if self.findings:
            lines += ["", self.summary()]
        if self.notes:
            lines += ["", *(f"note: {words}" for words in self.notes)]
        return "\n".join(lines)

    def summary(self) -> str:
        """A line for everything that is wrong, with the checks that saw it; what is no wrong gradient comes first."""
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.what, finding.words), []).append(finding)
        lines = []
        for (what, words), same in sorted(groups.items(), key=lambda group: group[0][1] == DIFFERS):
            worst = max((f.error for f in same if f.error is not None), default=None)
            cause = next((f.cause for f in same if f.cause), "")
            line = Finding("", what, worst, words, cause)
            seen = list(dict.fromkeys(f.check for f in same))
            more = "" if len(seen) < 4 else f" and {len(seen) - 2} more checks"
            lines.append(f"{line}  [{', '.join(seen[:2] if more else seen)}{more}]")
        return "\n".join(lines)
