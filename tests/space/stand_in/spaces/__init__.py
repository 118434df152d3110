"""Stands in for the package `spaces` of a ZeroGPU Space: `GPU` runs a generator in a forked
process, and everything is pickled on the way.

As there: the worker is forked at the first call and used again, CUDA seems to be there in the
page's process (and touching it fails), closing the generator stops the worker at its next value.
Stricter than there: only plain values and numpy arrays may cross, and the stand-in counts what
does.
"""

import inspect
import io
import multiprocessing
import pickle
import sys
import threading

import torch

if "gradio" in sys.modules:
    raise ImportError("spaces was imported after gradio")
FORK = multiprocessing.get_context("fork")
CALLS = []  # {"seconds": asked, "sent": bytes, "received": bytes} of each call
_available = torch.cuda.is_available
torch.cuda.is_available = lambda: True


class _Plain(pickle.Unpickler):
    def find_class(self, module, name):
        if module.split(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"{module}.{name} crossed the border")
        return super().find_class(module, name)


def _read(data):
    return _Plain(io.BytesIO(data)).load()


class _Worker:
    def __init__(self, task):
        self.pipe, theirs = FORK.Pipe()
        self.stop = FORK.Event()
        self.process = FORK.Process(target=self._serve, args=(task, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def _serve(self, task, pipe):
        torch.cuda.is_available = _available
        while True:
            args, kwargs = _read(pipe.recv_bytes())
            self.stop.clear()

            def iterate(args=args, kwargs=kwargs):
                try:
                    running = task(*args, **kwargs)
                    for value in running:
                        if self.stop.is_set():
                            running.close()
                            break
                        pipe.send_bytes(pickle.dumps(("value", value)))
                except Exception as error:
                    pipe.send_bytes(pickle.dumps(("error", repr(error))))

            thread = threading.Thread(target=iterate)
            thread.start()
            thread.join()
            pipe.send_bytes(pickle.dumps(("end", None)))


def GPU(task=None, *, duration=60):
    if task is None:
        return lambda task: GPU(task, duration=duration)
    assert inspect.isgeneratorfunction(task)
    workers = []

    def handler(*args, **kwargs):
        call = {
            "seconds": duration(*args, **kwargs) if callable(duration) else duration,
            "received": 0,
        }
        CALLS.append(call)
        worker = workers.pop() if workers else _Worker(task)
        data = pickle.dumps((args, kwargs))
        call["sent"], call["pid"] = len(data), worker.process.pid
        worker.pipe.send_bytes(data)
        failed, ended = None, False
        try:
            while not ended:
                data = worker.pipe.recv_bytes()
                kind, value = _read(data)
                call["received"] += len(data)
                if kind == "value":
                    yield value
                elif kind == "error":
                    failed = value
                else:
                    ended = True
            if failed:
                raise RuntimeError(failed)
        finally:
            worker.stop.set()
            while not ended:
                ended = _read(worker.pipe.recv_bytes())[0] == "end"
            workers.append(worker)

    return handler
