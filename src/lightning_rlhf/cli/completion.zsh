# Completes lightning-rlhf in zsh, after compinit: eval "$(lightning-rlhf -sc install=zsh)"
_lightning_rlhf() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX" candidate
    local -a found ended
    for candidate in "${(@f)$(COMP_LINE=$line "${words[1]}" -sc query=zsh 2>/dev/null)}"; do
        # The word goes on after one of these.
        case $candidate in
            '') ;;
            *[=./]) found+=("$candidate") ;;
            *) ended+=("$candidate") ;;
        esac
    done
    if (( $#found + $#ended )); then
        compadd -S '' -a found
        compadd -a ended
    else
        compset -P '*='
        _files
    fi
}
compdef _lightning_rlhf lightning-rlhf
