#!/bin/sh
# A QEMU that ends at once.
if [ "$1" = --version ]; then
    echo "QEMU emulator version 99.0.1"
    exit 0
fi
echo "qemu-system-aarch64: unsupported machine type" >&2
exit 3
