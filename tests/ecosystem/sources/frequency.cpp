// frequency counts the words of standard input and prints them in alphabetical order.
#include <iostream>
#include <map>
#include <string>

int main(int argc, char **argv) {
    std::map<std::string, int> count;
    for (std::string word; std::cin >> word;)
        ++count[word];
    for (const auto &[word, times] : count)
        std::cout << word << ' ' << times << '\n';
    std::cerr << (argc > 1 ? argv[1] : "no title") << ": " << count.size() << " words" << std::endl;
    return count.empty() ? 1 : 0;
}
