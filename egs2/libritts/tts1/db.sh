# The folders of the corpora. `downloads` means that the recipe downloads them into
# ./downloads; otherwise name an existing copy, here or in the environment.

# LibriTTS (https://www.openslr.org/60): the folder with train-clean-100 and the others.
LIBRITTS=${LIBRITTS:-downloads}
# Its forced-alignment labels (https://github.com/kan-bayashi/LibriTTSLabel): the clone,
# or the folder in which it was unpacked, with lab/phone/train-clean-100 and the others.
LIBRITTS_LABEL=${LIBRITTS_LABEL:-downloads/LibriTTSLabel}
