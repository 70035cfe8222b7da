# A file system of SMALL_DISK, which only this process sees, and who enters its namespace. Says where once it is there, and
# ends when its input does. Until then it is told to "fill" and to "free" it, and repeats each word once that is done.
set -eu
folder=$(mktemp -d /tmp/tollgate-disk.XXXXXX)
# A server that is about to end may be in it; it goes with the last one.
trap 'umount -l "$folder"; rmdir "$folder"' EXIT
trap 'exit 1' INT TERM
mount -t tmpfs -o "size=$SMALL_DISK" tmpfs "$folder"
echo "$folder"
while read -r order; do
    case "$order" in
        fill) dd if=/dev/zero of="$folder/ballast" bs=4k 2>/dev/null || true ;;
        free) rm "$folder/ballast" ;;
        *) echo "not an order: $order" >&2; exit 1 ;;
    esac
    echo "$order"
done
