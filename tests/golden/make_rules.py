"""Excerpts of the reference file rules.json (171 float64 trajectories of optimizers by independent implementations, and
results of single operations) as Lua tables: python3 tests/golden/make_rules.py PATH/rules.json [NAME …]

An excerpt has the cases of some optimizers and entries of `special`. The numbers are as Python's repr has them, exact;
null is false. rules_names.lua lists what there is in all, for the test that nothing is left out.
"""

import json
import os
import sys

STEPS = ("inputs: what to feed at each step; params: after it; final_state: the buffers after the last step. Flat "
         "row-major lists, one per tensor.")

# name → (comment, optimizers in the order of the file, entries of special)
EXCERPTS = {
    "rules": ("Excerpt of the reference file rules.json: float64 trajectories of independent implementations. " + STEPS,
              ["SGD", "Adam", "IVON", "VSGD", "ConstVSGD", "AdaGrad", "RMSProp", "AdaDelta", "NSGD", "Lion", "NAdam",
               "AdaBelief", "DiffGrad", "SGDSaI", "AdaGradNorm", "ADOPT", "AdEMAMix", "CAdamW", "Lookahead"], []),
    "rules_recent": ("Excerpt of the reference file rules.json, as tests/golden/rules.lua: the rules on matrices, those "
                     "without a schedule, and results of single operations (special).",
                     ["SWAN", "SinkGD", "Muon", "Adafactor", "ScheduleFree", "Prodigy", "SophiaG", "Shampoo", "SOAP"],
                     ["matrix_ops", "averaging"]),
    "stages": ("Excerpt of the reference file rules.json: clipped updates, DP-SGD and DiceSGD as float64 trajectories of "
               "independent implementations, and single vectors: pixel-wise clipping, clipping of the largest "
               "coordinates. " + STEPS, ["CClip", "DPSGD", "DiceSGD"], ["pixel_clip", "clip_top_fraction"]),
    "quantize": ("Excerpt of the reference file rules.json: the maps and block-wise codes of 8-bit states, and float64 "
                 "trajectories of optimizers with such states, codes and largest magnitudes after each step included. "
                 "Flat row-major lists.",
                 ["Adam8bit", "Momentum8bit"], ["quant_map_signed", "quant_map_unsigned", "quant_block8"]),
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
        return "false"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"%s"' % value
    if isinstance(value, dict):
        return "{%s}" % ",".join('["%s"]=%s' % (k, lua(v)) for k, v in value.items())
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


def path_of(name):
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".lua")


def write_names(source):
    """All cases and entries of special, by name."""
    with open(path_of("rules_names"), "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in wrap("What is in the reference file rules.json, by name, made by "
                                                     "make_rules.py: cases, in f64 and f32 each, and special."))
        file.write("return {\n")
        for key, names in (("cases", [case["id"] for case in source["cases"]]), ("special", list(source["special"]))):
            file.write("%s = {\n%s},\n" % (key, "".join('"%s",\n' % name for name in names)))
        file.write("}\n")


def write(name, source):
    comment, optimizers, special = EXCERPTS[name]
    cases = [case for optimizer in optimizers for case in source["cases"] if case["optimizer"] == optimizer]
    problems = {case["problem"]: source["problems"][case["problem"]] for case in cases}
    path = path_of(name)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in wrap(comment))
        file.write("return {\nproblems = %s,\ncases = {\n" % lua(problems))
        file.writelines(lua(case) + ",\n" for case in cases)
        file.write("},\nspecial = {\n")
        file.writelines("%s = %s,\n" % (key, lua(source["special"][key])) for key in special)
        file.write("},\n}\n")
    print(f"{path}: {len(cases)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as given:
        everything = json.load(given)
    write_names(everything)
    for wanted in sys.argv[2:] or EXCERPTS:
        write(wanted, everything)
