#!/usr/bin/env python3
"""The test cases that sometimes fail because of a fault of QEMU, each with that fault. Used by scripts/test.

A case that fails once has failed. The only exceptions are in FAULTS: the case's name and its output must both
match. Then scripts/test repeats the case once, and says so. docs/qemu-bugs.md describes the faults.
"""

import re
import sys
import xml.etree.ElementTree
from typing import NamedTuple


class Fault(NamedTuple):
    cases: str  # matches the case's name
    prints: str  # matches the case's output, without its white space (Catch2 breaks lines anywhere)
    fault: str  # the fault of QEMU: the heading in docs/qemu-bugs.md


FAULTS = [
    # A page of the guest's RAM holds an old value after a move. A wrong disk is never excused.
    Fault(r"(there and back|hand-over|kinds|base|verify|cuts|converge|certificates|changes|networks|vxlan|conntrack)",
          r'^(?!.*_error":"disk_).*"first_error":"ram_(changed|stale)', "TCG may lose one store to RAM (Suspected in QEMU)"),
    # QEMU 7.2 resumes its guest on inactive disks, and aborts.
    Fault(r"(faults: the destination's QEMU is killed|hand-over: the destination's QEMU dies)",
          r"bdrv_co_write_req_prepare", "A cancel during device state kills the guest"),
]


def known_fault(name, printed):
    """The fault that explains a failure, or None."""
    printed = re.sub(r"\s", "", printed)
    for fault in FAULTS:
        if re.match(fault.cases, name) and re.search(fault.prints, printed):
            return fault.fault
    return None


def main():
    """Prints each failed case of ctest's results (JUnit) that a known fault explains. Status 1: there are others."""
    unexplained = 0
    for case in xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
        if case.get("status") != "fail":
            continue
        fault = known_fault(case.get("name"), case.findtext("system-out") or "")
        if fault:
            print(f"{case.get('name')}: {fault}")
        else:
            unexplained += 1
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
