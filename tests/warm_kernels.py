"""Kernels forked from one process that has the libraries loaded: loading them anew for every notebook takes most of its
time. A kernel is a process of its own all the same, with the same command line, folder and environment."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import time
from multiprocessing import forkserver

from jupyter_client.provisioning import local_provisioner

#: What nearly every notebook loads.
LOADED = ("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "matplotlib.figure", "arena10k.run",
          "arena10k.plots", "arena10k.report", "arena10k.attribution", "arena10k.audit.status")  # fmt: skip


class Kernel:
    """What a kernel manager expects of a process that it has started."""

    stdin = stdout = stderr = None

    def __init__(self, command, environment, folder):
        process = multiprocessing.get_context("forkserver").Process(
            target=_serve, args=(command, environment, folder), daemon=True
        )
        process.start()
        self._process, self.pid, self.kill, self.terminate = process, process.pid, process.kill, process.terminate
        while os.getpgid(self.pid) != self.pid:  # signals are sent to its group
            time.sleep(0.001)

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        return self.poll()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def _serve(command, environment, folder):
    os.setsid()
    os.close(forkserver._forkserver._forkserver_alive_fd)  # or the two would keep each other alive for ever
    os.environ.clear()
    os.environ.update(environment)
    if folder:
        os.chdir(folder)
    # A kernel ends with the process that started it, which here is the one that it was forked from.
    sys.argv = [*command[2:], f"--IPKernelApp.parent_handle={os.getppid()}"]
    sys.path.insert(0, "")
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


def keep_warm():
    """Have the kernels of this process forked; while coverage is measured they are started as always."""
    if {"COV_CORE_SOURCE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"} & set(os.environ):
        return
    multiprocessing.set_forkserver_preload(list(LOADED))
    local_provisioner.launch_kernel = lambda command, env, cwd=None, **_: Kernel(command, env, cwd)
