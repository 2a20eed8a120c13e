"""Excerpts of the reference file rules.json (171 float64 trajectories of optimizers by independent implementations, and
results of single operations) as Lua tables: python3 tests/golden/make_rules.py PATH/rules.json [NAME …]

An excerpt has the cases of some optimizers and entries of `special`. The numbers are as Python's repr has them, exact.
"""

import json
import os
import sys

STEPS = ("inputs: what to feed at each step; params: after it; final_state: the buffers after the last step. Flat "
         "row-major lists, one per tensor.")

# name → (comment, optimizers, entries of special)
EXCERPTS = {
    "rules_paired": ("Excerpt of the reference file rules.json: methods that take several gradients in a step, or correct "
                     "them by those before (SAM, MARS, SVRG and its kin, FedSpeed). " + STEPS,
                     ["SAM", "MARS", "Recursive"], ["fedspeed"]),
    "rules_batches": ("Excerpt of the reference file rules.json: AdAdaGrad and AdAdaGradNorm, whose batches grow "
                      "(extra.batch: the size of the next one), the tests of batch sizes on one batch, and ghost batch "
                      "norm. " + STEPS, ["AdAda"], ["batch_tests", "ghost_bn"]),
}


def lua(value):
    """A value of JSON as a Lua expression without spaces."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"%s"' % value
    if isinstance(value, dict):
        return "{%s}" % ",".join('["%s"]=%s' % (k, lua(v)) for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return "{%s}" % ",".join(lua(v) for v in value)
    return repr(value)


def wrap(text):
    """Comment lines of at most 120 characters."""
    lines, line = [], "--"
    for word in text.split():
        if len(line) + 1 + len(word) > 120:
            lines.append(line)
            line = "--"
        line += " " + word
    return lines + [line]


def write(name, source):
    comment, optimizers, special = EXCERPTS[name]
    cases = [case for case in source["cases"] if case["optimizer"] in optimizers]
    problems = {case["problem"]: source["problems"][case["problem"]] for case in cases}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".lua")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in wrap(comment))
        file.write("return {\nproblems = %s,\ncases = {\n" % lua(problems))
        file.writelines(lua(case) + ",\n" for case in cases)
        file.write("},\nspecial = %s,\n}\n" % lua({key: source["special"][key] for key in special}))
    print(f"{path}: {len(cases)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as given:
        everything = json.load(given)
    for wanted in sys.argv[2:] or EXCERPTS:
        write(wanted, everything)
