// The program with which the sandbox tests itself before it is used: it tries what code under test
// must not be able to do, and raises with the first thing that works.
#pragma once

namespace tandem::eval {

inline constexpr char kContainmentProbe[] = R"python(
import os, sys

def refuse(what, attempt):
    try:
        attempt()
    except (OSError, ImportError):
        return
    raise SystemError('the sandbox leaks: ' + what)

def connect():
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)

def many_files():
    try:
        for i in range(100000):
            with open('/tmp/%d' % i, 'wb') as file:
                file.write(b'x' * 65536)
    finally:
        for name in os.listdir('/tmp'):
            os.unlink('/tmp/' + name)

refuse('processes', os.fork)
refuse('programs', lambda: os.execv('/usr/bin/python3', ['python3', '-c', '']))
refuse('signals', lambda: os.kill(1, 0))
refuse('network', connect)
refuse('other processes', lambda: os.listdir('/proc'))
refuse('writing to the root', lambda: open('/file', 'w'))
refuse('writing to the library', lambda: open(os.__file__, 'a'))
refuse('writing to devices', lambda: open('/dev/file', 'w'))
refuse('the home folder', lambda: os.listdir('/home'))
refuse('the system configuration', lambda: os.listdir('/etc'))
refuse('unlimited files', many_files)
refuse('memory of the interpreter', lambda: __import__('ctypes'))
for descriptor in [3] + list(range(5, 32)):
    refuse('descriptors of the parent', lambda: os.fstat(descriptor))

try:
    bytearray(4 << 30)
except MemoryError:
    pass
else:
    raise SystemError('the sandbox leaks: memory')
if os.getuid() != 65534:
    raise SystemError('the sandbox leaks: the user')
if set(os.environ) - {'LD_PRELOAD', 'LANG', 'LC_CTYPE', 'PWD'}:
    raise SystemError('the sandbox leaks: the environment')
if os.uname().nodename != 'sandbox':
    raise SystemError('the sandbox leaks: the host name')
)python";

}  // namespace tandem::eval
