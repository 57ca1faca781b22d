# Of scripts that are given a folder of MNIST's idx files, $mnist: sets $handwriting, the source of digits that `svd` takes.
if compgen -G "$mnist/train-images-idx3-ubyte*" > /dev/null; then
    handwriting=$(realpath "$mnist")
elif [ "$mnist" = data/mnist ] || [ "$mnist" = sklearn ]; then
    handwriting=sklearn
else
    echo "$mnist has no train-images-idx3-ubyte or train-images-idx3-ubyte.gz, which are MNIST's" >&2
    exit 2
fi
echo "handwriting: $handwriting" >&2
