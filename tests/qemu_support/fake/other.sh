#!/bin/sh
# Not QEMU at all.
echo "hello"
