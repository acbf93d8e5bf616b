#!/bin/sh
# A QEMU that never answers.
if [ "$1" = --version ]; then
    echo "QEMU emulator version 7.2.0"
    exit 0
fi
exec sleep 600
