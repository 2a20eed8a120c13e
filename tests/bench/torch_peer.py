"""The PyTorch side of `perigee bench`: one process that sets up a case and runs as many steps of it as it is asked to.

It reads lines from standard input and answers each with one line: `setup CASE VARIANT THREADS` -> `ok` or `error WHY`;
`run STEPS` -> seconds; `variants CASE` -> their names. It ends when its input ends, so nothing is left behind. The
cases stand in torch_cases.py.
"""

import signal
import sys
import time
import warnings

sys.dont_write_bytecode = True

import torch  # noqa: E402
from torch_cases import CASES  # noqa: E402

warnings.filterwarnings("ignore")

SETUP_SECONDS = 240  # a compilation that takes longer is given up


def give_up(_signal, _frame):
    raise TimeoutError(f"took longer than {SETUP_SECONDS} s to set up")


def main():
    signal.signal(signal.SIGALRM, give_up)
    step = None
    print("ready torch", torch.__version__, flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "variants":
            print(" ".join(CASES[words[0]][1]()) if words[0] in CASES else "", flush=True)
        elif command == "setup":
            step = None
            signal.alarm(SETUP_SECONDS)
            try:
                torch.set_num_threads(int(words[2]))
                step = CASES[words[0]][0](words[1])
                for _ in range(3):
                    step()
                answer = "ok"
            except Exception as error:  # whatever a compiler of PyTorch raises; the case is then left out
                answer = "error " + " ".join(str(error).split())[:200]
            signal.alarm(0)
            print(answer, flush=True)
        elif command == "run":
            start = time.perf_counter()
            for _ in range(int(words[0])):
                step()
            print(f"{time.perf_counter() - start:.9f}", flush=True)


if __name__ == "__main__":
    main()
