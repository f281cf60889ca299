"""Builds one extension, fastgate._kernels: the Cython binding and the C core, each instruction-set level with its own flags."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("FASTGATE_SANITIZE") == "1"  # AddressSanitizer and UndefinedBehaviorSanitizer
DEBUG = os.environ.get("FASTGATE_DEBUG") == "1"

LEVELS = {  # csrc/isa_<level>_*.c -> compiler flags
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "baseline": [],
}
if platform.machine() not in ("x86_64", "AMD64"):
    LEVELS = {"baseline": []}

# No contraction: a product and a sum become one rounding only where the source says v_fma.
# -O2: what must be unrolled says so in csrc/, and -O3 adds a third to the size. -funswitch-loops, which clang does unasked:
# gate math asks once what is to be kept, not for each vector; it warns of the flag.
COMPILE = ["-std=c11", "-O2", "-funswitch-loops", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
COMPILE += ["-Wno-missing-field-initializers", "-Wno-ignored-optimization-argument"]
COMPILE += ["-fno-asynchronous-unwind-tables"]  # no exception passes C: 30 kB of the wheel
FASTER = {"avx512": ["-O3"]}  # 1 to 6 % of a short sequence alone; the other levels gain nothing by it
LINK = ["-Wl,-s"]  # no symbols in the wheel
if DEBUG or SANITIZE:
    FASTER, LINK = {}, []
    COMPILE += ["-g", "-fno-omit-frame-pointer", "-fasynchronous-unwind-tables"]
    COMPILE[1] = "-O1"
if SANITIZE:
    # Lines alone, in a quarter less time; and overflow reported, which Python's own flags define.
    COMPILE += ["-g1", "-fstrict-overflow", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=address,undefined"]


class BuildLevels(build_ext):
    """build_ext that adds a level's flags to the files of that level and compiles several files at a time."""

    def build_extensions(self):
        compile_one = self.compiler._compile
        pool, jobs = ThreadPoolExecutor(os.cpu_count()), []

        def compile_with_level(obj, source, ext, cc_args, extra, pp_opts):
            level = next((level for level in LEVELS if f"isa_{level}_" in source), None)
            flags = extra + FASTER.get(level, []) + LEVELS.get(level, [])
            jobs.append(pool.submit(compile_one, obj, source, ext, cc_args, flags, pp_opts))

        link = self.compiler.link_shared_object

        def link_when_compiled(*args, **kwargs):
            for job in jobs:
                job.result()
            link(*args, **kwargs)

        self.compiler._compile = compile_with_level
        self.compiler.link_shared_object = link_when_compiled
        with pool:
            super().build_extensions()


sources = ["csrc/dispatch.c", "csrc/team.c", *(f"csrc/isa_{level}_f{bits}.c" for level in LEVELS for bits in (32, 64))]
kernels = Extension(
    "fastgate._kernels",
    ["fastgate/_kernels.pyx", *sources],
    include_dirs=["csrc", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=COMPILE,
    extra_link_args=LINK,
    depends=["setup.py", *glob("csrc/*.*"), *glob("csrc/cells/*"), *glob("fastgate/*.px[di]")],
)
if __name__ == "__main__":  # tests/selftest.py reads the tables above
    setup(
        ext_modules=cythonize(
            [kernels], compiler_directives={"language_level": 3, "binding": True, "freethreading_compatible": True}
        ),
        cmdclass={"build_ext": BuildLevels},
    )
